# The reproduction pipeline: `snakemake --cores all reproduction`. Everything is in workflow/.
include: "workflow/Snakefile"


rule all:
    default_target: True
    input:
        rules.reproduction.input,
