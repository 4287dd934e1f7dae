# One self-contained page per recipe, with the steps whose loss or gradient norm is an outlier, and a page over all
# recipes. The largest spike that takes at most 5e11 operations is computed again: 46 steps of fables, seconds; of a
# large model none. The page says how to get the others. Pages are for reading: an edit of pages/ makes none again;
# `--forcerun report` does.


rule spikes:
    input:
        lambda wildcards: [
            path
            for path in run_of(wildcards).files("train")
            if not path.endswith(".safetensors")
        ],
        tokens=lambda wildcards: run_of(wildcards).summary,
        init=lambda wildcards: RUNS.start(wildcards.recipe, 0, ".sha256"),
    output:
        update(f"{RUN}/{at.SPIKES}"),
    log:
        f"{LOGS}/{{recipe}}/spikes.log",
    threads: ALL_CORES
    params:
        recipe=recipe_of,
        tokens=tokens_of,
        run=folder,
        init=lambda wildcards, input: init_flags(wildcards.recipe, 0),
        replays=1,
        most_flops=5e11,
        code=code("spikes"),
        kernels=kernels("spikes"),
    shell:
        "python -m pipeline.spikes --recipe {params.recipe:q} --run {params.run:q} --tokens {params.tokens:q}"
        " {params.init:q} --replays {params.replays} --most-flops {params.most_flops} --out {output:q} --log {log:q}"


rule report:
    input:
        f"{RUN}/{at.DIGESTS}",
        f"{RUN}/{at.SPIKES}",
        lambda wildcards: run_of(wildcards).summary,
        lambda wildcards: run_of(wildcards).expected(),
    output:
        report(
            update(f"{RUN}/{at.REPORT}"), category="{recipe}", labels={"part": "page"}
        ),
    log:
        f"{LOGS}/{{recipe}}/report.log",
    params:
        recipe=recipe_of,
        tokens=tokens_of,
        run=folder,
        code=code("report"),
    shell:
        "python -m pipeline.report --recipe {params.recipe:q} --run {params.run:q} --tokens {params.tokens:q}"
        " --out {output:q} --log {log:q}"


rule overview:
    input:
        [
            RUNS[name].file(page)
            for name in RUNS.asked
            for page in (at.DIGESTS, at.VERIFICATION, at.REPORT)
        ],
    output:
        report(update(str(at.OVERVIEW)), category="overview"),
    log:
        f"{LOGS}/overview.log",
    params:
        recipes=lambda wildcards, input: [RUNS[name].path for name in RUNS.asked],
        code=lambda wildcards: RUNS[RUNS.asked[0]].trigger("overview", kernels=False),
    shell:
        "python -m pipeline.overview --out {output:q} {params.recipes:q} --log {log:q}"
