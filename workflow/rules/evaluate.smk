# Validation loss at every checkpoint, and the questions at the last.


rule evaluate:
    input:
        checkpoint=RUN + "/step_{step}.safetensors.sha256",
        tokens=f"{TOKENS}/tokens.json",
        ops="results/build/ops.digest",
    output:
        RUN + "/eval_{step}.json",
    log:
        LOGS + "/evaluate_{step}.log",
    threads: workflow.cores
    params:
        recipe=lambda wildcards: RECIPE_PATH,
        bits=recipe_id(RECIPE) + str(RECIPE.artifacts.choices),
        code=code_digest("pipeline.evaluate"),
    shell:
        "python -m pipeline.evaluate --recipe {params.recipe:q} --tokens {TOKENS:q}"
        " --checkpoint {RUN:q}/step_{wildcards.step}.safetensors --out {output:q} --threads {threads}"
        " 2>&1 | tee {log:q}"
