# Training, one segment per checkpoint. Execution is threads and resources: changing them reruns nothing.


rule train:
    input:
        tokens=f"{RUN.tokens}/tokens.json",
        ops="results/build/ops.digest",
        previous=RUN.previous_sha256,
    output:
        checkpoint=f"{RUN.folder}/step_{{step}}.safetensors",
        sha256=f"{RUN.folder}/step_{{step}}.safetensors.sha256",
        chain=f"{RUN.folder}/chain_{{step}}.tsv",
    log:
        f"{RUN.logs}/train_{{step}}.log",
    threads: workflow.cores
    resources:
        ranks=1,
        device="cpu",
        gpu=0,
        micro_batch=4,
        recompute=0,
        rolling=30,
    params:
        tokens=lambda wildcards: RUN.tokens,
        recipe=lambda wildcards: RUN.recipe_path,
        previous=RUN.previous,
        step=lambda wildcards: int(wildcards.step),
        bits=recipe_id(RUN.recipe),
        code=code_digest("pipeline.train"),
    shell:
        "python -m pipeline.train --recipe {params.recipe:q} --tokens {params.tokens:q}"
        " --previous {params.previous:q} --steps-to {params.step} --out {output.checkpoint:q}"
        " --chain {output.chain:q} --ranks {resources.ranks} --micro-batch {resources.micro_batch}"
        " --recompute {resources.recompute} --rolling {resources.rolling}"
        " --device {resources.device} --threads {threads} 2>&1 | tee -i {log:q}"
