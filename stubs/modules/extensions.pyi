class Extension:
    name: str
    path: str

def active() -> list[Extension]: ...
