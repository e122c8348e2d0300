"""Language models as layers that read vectors or titles: loaded, cut in depth, adapted, made smaller, split."""
