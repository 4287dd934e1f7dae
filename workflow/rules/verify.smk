# Digests of everything, and their comparison with the published ones.


rule digest:
    input:
        lambda wildcards: run_of(wildcards).digested(),
    output:
        digests=update(f"{RUN}/{at.DIGESTS}"),
        sums=update(f"{RUN}/{at.SUMS}"),
        provenance=update(f"{RUN}/{at.PROVENANCE}"),
    log:
        f"{LOGS}/{{recipe}}/digest.log",
    params:
        recipe=recipe_of,
        run=folder,
        bits=lambda wildcards: run_of(wildcards).id,
        code=code("digest"),
    shell:
        "python -m pipeline.digest --recipe {params.recipe:q} --run {params.run:q} --log {log:q}"


rule verify:
    input:
        digests=f"{RUN}/{at.DIGESTS}",
        expected=lambda wildcards: run_of(wildcards).expected(),
    output:
        report(
            update(f"{RUN}/{at.VERIFICATION}"),
            category="{recipe}",
            labels={"part": "digests"},
        ),
    log:
        f"{LOGS}/{{recipe}}/verify.log",
    params:
        recipe=recipe_of,
        run=folder,
        code=code("verify"),
    shell:
        "python -m pipeline.verify --recipe {params.recipe:q} --run {params.run:q} --out {output:q}"
        " --log {log:q}"
