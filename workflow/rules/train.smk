# Training, one segment per checkpoint. Execution is threads and resources: changing them reruns nothing.


rule train:
    input:
        tokens=f"{TOKENS}/tokens.json",
        ops="results/build/ops.digest",
        previous=previous_sha256,
    output:
        checkpoint=RUN + "/step_{step}.safetensors",
        sha256=RUN + "/step_{step}.safetensors.sha256",
        chain=RUN + "/chain_{step}.tsv",
    log:
        LOGS + "/train_{step}.log",
    threads: workflow.cores
    resources:
        ranks=1,
        micro_batch=4,
        recompute=0,
        rolling=30,
    params:
        recipe=lambda wildcards: RECIPE_PATH,
        previous=previous,
        step=lambda wildcards: int(wildcards.step),
        bits=recipe_id(RECIPE),
        code=code_digest("pipeline.train"),
    shell:
        "python -m pipeline.train --recipe {params.recipe:q} --tokens {TOKENS:q}"
        " --previous {params.previous:q} --steps-to {params.step} --out {output.checkpoint:q}"
        " --chain {output.chain:q} --ranks {resources.ranks} --micro-batch {resources.micro_batch}"
        " --recompute {resources.recompute} --rolling {resources.rolling} --threads {threads}"
        " 2>&1 | tee {log:q}"
