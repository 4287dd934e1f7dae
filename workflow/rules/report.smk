# One self-contained page per recipe, with the steps whose loss or gradient norm is an outlier. The largest of them that takes at
# most 5e11 operations is computed again: 46 steps of fables, seconds; of a large model none. The page says how to get the others.


rule spikes:
    input:
        expand("{run}/chain_{step}.tsv", run=RUN.folder, step=RUN.steps),
        expand("{run}/step_{step}.safetensors.sha256", run=RUN.folder, step=RUN.steps),
        tokens=f"{RUN.tokens}/tokens.json",
        ops="results/build/ops.digest",
    output:
        f"{RUN.folder}/spikes.json",
    log:
        f"{RUN.logs}/spikes.log",
    threads: workflow.cores
    params:
        tokens=lambda wildcards: RUN.tokens,
        run=lambda wildcards: RUN.folder,
        recipe=lambda wildcards: RUN.recipe_path,
        replays=1,
        most_flops=5e11,
        code=code_digest("pipeline.spikes"),
    shell:
        "python -m pipeline.spikes --recipe {params.recipe:q} --run {params.run:q} --tokens {params.tokens:q}"
        " --replays {params.replays} --most-flops {params.most_flops} --out {output:q} > {log:q} 2>&1"


rule report:
    input:
        f"{RUN.folder}/digests.json",
        f"{RUN.folder}/spikes.json",
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
