# The ops. Which compiler and optimisation level are execution; ops.digest and stems.json are the same for all.


rule compile:
    output:
        library="results/build/samebits_ops.so",
        digest="results/build/ops.digest",
        stems="results/build/stems.json",
    log:
        "results/logs/compile.log",
    threads: workflow.cores
    params:
        sources=source_digest(),
        code=code_digest("pipeline.compile"),
    shell:
        "python -m pipeline.compile --out results/build --threads {threads} > {log:q} 2>&1"
