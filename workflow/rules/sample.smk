# Texts from the last checkpoint.


rule sample:
    input:
        checkpoint=f"{RUN}/step_{STEPS[-1]}.safetensors.sha256",
        tokens=f"{TOKENS}/tokens.json",
        ops="results/build/ops.digest",
    output:
        f"{RUN}/samples.json",
    log:
        f"{LOGS}/sample.log",
    threads: 1
    params:
        recipe=lambda wildcards: RECIPE_PATH,
        checkpoint=f"{RUN}/step_{STEPS[-1]}.safetensors",
        bits=recipe_id(RECIPE) + digest_of(RECIPE.artifacts.samples),
        code=code_digest("pipeline.sample"),
    shell:
        "python -m pipeline.sample --recipe {params.recipe:q} --tokens {TOKENS:q}"
        " --checkpoint {params.checkpoint:q} --out {output:q} --threads {threads} > {log:q} 2>&1"
