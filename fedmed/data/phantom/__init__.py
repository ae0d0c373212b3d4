"""A synthetic chest-radiograph generator: patients, anatomy, findings and detectors.

All lengths are centimetres in the patient's frame: x grows towards the patient's left (the right
of the image), y grows downwards, the origin is the midline at the level of the lung apices.
"""
