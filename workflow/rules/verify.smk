# Digests of everything, and their comparison with the published ones.


rule digest:
    input:
        f"{DATA}/source.json",
        f"{TOKENS}/tokens.json",
        expand("{run}/step_{step}.safetensors.sha256", run=RUN, step=STEPS),
        expand("{run}/chain_{step}.tsv", run=RUN, step=STEPS),
        expand("{run}/eval_{step}.json", run=RUN, step=STEPS),
        f"{RUN}/samples.json",
    output:
        digests=f"{RUN}/digests.json",
        sums=f"{RUN}/SHA256SUMS",
    log:
        f"{LOGS}/digest.log",
    params:
        recipe=lambda wildcards: RECIPE_PATH,
        code=code_digest("pipeline.digest"),
    shell:
        "python -m pipeline.digest --recipe {params.recipe:q} --run {RUN:q} > {log:q} 2>&1"


rule verify:
    input:
        f"{RUN}/digests.json",
        [
            path
            for path in [
                os.path.relpath(ROOT / "config" / "expected" / f"{RECIPE.name}.json")
            ]
            if os.path.exists(path)
        ],
    output:
        f"{RUN}/verification.txt",
    log:
        f"{LOGS}/verify.log",
    params:
        recipe=lambda wildcards: RECIPE_PATH,
        code=code_digest("pipeline.verify"),
    shell:
        "python -m pipeline.verify --recipe {params.recipe:q} --run {RUN:q} --out {output:q} 2>&1 | tee {log:q}"
