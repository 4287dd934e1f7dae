# One self-contained page per recipe.


rule report:
    input:
        f"{RUN}/digests.json",
        f"{TOKENS}/tokens.json",
    output:
        f"{RUN}/report.html",
    log:
        f"{LOGS}/report.log",
    params:
        recipe=lambda wildcards: RECIPE_PATH,
        code=code_digest("pipeline.report"),
    shell:
        "python -m pipeline.report --recipe {params.recipe:q} --run {RUN:q} --tokens {TOKENS:q}"
        " --out {output:q} > {log:q} 2>&1"
