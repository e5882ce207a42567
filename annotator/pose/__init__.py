"""Finding figures: from what networks give to points of bodies, hands and faces.

A part is float64 (points, 3): x, y in pixels and 1 where the point was found, else three zeros.
"""
