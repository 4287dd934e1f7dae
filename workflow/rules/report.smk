# One self-contained page per recipe.


rule report:
    input:
        f"{RUN.folder}/digests.json",
        f"{RUN.tokens}/tokens.json",
        RUN.expected(),
    output:
        f"{RUN.folder}/report.html",
    log:
        f"{RUN.logs}/report.log",
    params:
        tokens=lambda wildcards: RUN.tokens,
        run=lambda wildcards: RUN.folder,
        recipe=lambda wildcards: RUN.recipe_path,
        code=code_digest("pipeline.report"),
    shell:
        "python -m pipeline.report --recipe {params.recipe:q} --run {params.run:q} --tokens {params.tokens:q}"
        " --out {output:q} > {log:q} 2>&1"
