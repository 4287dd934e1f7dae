# Digests of everything, and their comparison with the published ones.


rule digest:
    input:
        f"{RUN.data}/source.json",
        f"{RUN.tokens}/tokens.json",
        expand("{run}/step_{step}.safetensors.sha256", run=RUN.folder, step=RUN.steps),
        expand("{run}/chain_{step}.tsv", run=RUN.folder, step=RUN.steps),
        expand("{run}/eval_{step}.json", run=RUN.folder, step=RUN.steps),
        f"{RUN.folder}/samples.json",
    output:
        digests=f"{RUN.folder}/digests.json",
        sums=f"{RUN.folder}/SHA256SUMS",
        provenance=f"{RUN.folder}/provenance.json",
    log:
        f"{RUN.logs}/digest.log",
    params:
        run=lambda wildcards: RUN.folder,
        recipe=lambda wildcards: RUN.recipe_path,
        code=code_digest("pipeline.digest"),
    shell:
        "python -m pipeline.digest --recipe {params.recipe:q} --run {params.run:q} > {log:q} 2>&1"


rule verify:
    input:
        f"{RUN.folder}/digests.json",
        RUN.expected(),
    output:
        f"{RUN.folder}/verification.txt",
    log:
        f"{RUN.logs}/verify.log",
    params:
        run=lambda wildcards: RUN.folder,
        recipe=lambda wildcards: RUN.recipe_path,
        code=code_digest("pipeline.verify"),
    shell:
        "python -m pipeline.verify --recipe {params.recipe:q} --run {params.run:q} --out {output:q} 2>&1 | tee -i {log:q}"
