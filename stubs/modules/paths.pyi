data_path: str
models_path: str
script_path: str
