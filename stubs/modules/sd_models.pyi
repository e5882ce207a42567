from typing import Any

class SdModelData:
    sd_model: Any | None

model_data: SdModelData
