# Texts from the last checkpoint.


rule sample:
    input:
        checkpoint=f"{RUN.folder}/step_{RUN.steps[-1]}.safetensors.sha256",
        tokens=f"{RUN.tokens}/tokens.json",
        ops="results/build/ops.digest",
    output:
        f"{RUN.folder}/samples.json",
    log:
        f"{RUN.logs}/sample.log",
    threads: 1
    resources:
        device="cpu",
        gpu=0,
    params:
        tokens=lambda wildcards: RUN.tokens,
        recipe=lambda wildcards: RUN.recipe_path,
        checkpoint=lambda wildcards: RUN.last_checkpoint,
        bits=recipe_id(RUN.recipe) + digest_of(RUN.recipe.artifacts.samples),
        code=code_digest("pipeline.sample"),
    shell:
        "python -m pipeline.sample --recipe {params.recipe:q} --tokens {params.tokens:q}"
        " --checkpoint {params.checkpoint:q} --out {output:q}"
        " --device {resources.device} --threads {threads} > {log:q} 2>&1"
