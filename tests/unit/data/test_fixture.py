"""The committed tiny data set is what its generator writes."""

import importlib.util


def test_the_generator_writes_the_committed_files(fixture_data, tmp_path) -> None:
    spec = importlib.util.spec_from_file_location("make_ml_tiny", fixture_data.parent / "make_ml_tiny.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(tmp_path)
    for name in ("u.data", "u.item"):
        assert (tmp_path / name).read_bytes() == (fixture_data / name).read_bytes()
