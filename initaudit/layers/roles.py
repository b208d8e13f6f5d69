"""roles"""
def assign(layers, config, ordered):
    return layers
