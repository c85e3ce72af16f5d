"""A YAML file of ``mlx_lm.lora`` as the settings of a stage."""
