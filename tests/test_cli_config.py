"""`geoseg config schema`: a JSON schema that editors can use."""

import json

import jsonschema
import pytest
from click.testing import CliRunner

from geoseg.cli.main import geoseg
from geoseg.config import TrainConfig


@pytest.fixture(scope="module")
def schema():
    done = CliRunner().invoke(geoseg, ["config", "schema"])
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_it_is_a_schema(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


def test_every_key_says_what_it_means(schema):
    for name, model in {"TrainConfig": schema, **schema["$defs"]}.items():
        assert model["description"], name
        for key, field in model["properties"].items():
            assert len(field["description"]) > 5, f"{name}.{key}"
            assert "\n" not in field["description"]
    assert schema["properties"]["patience"]["description"].startswith("Epochs without a better `metric`")
    assert schema["$defs"]["SceneSource"]["properties"]["class"]["description"].startswith("Class of features that no")
    assert schema["$defs"]["SceneSource"]["properties"]["zoom"]["description"].startswith("Overrides")  # inherited
    classes = schema["properties"]["classes"]["description"]
    assert classes.endswith("Expected a list of 2 to 254 classes, each with a name, the background first.")


@pytest.mark.parametrize(
    ("config", "right"),
    [
        ({}, True),
        ({"epochs": 0}, False),
        ({"epochss": 3}, False),
        ({"heads": {"h": {"classes": ["a", {"name": "b"}]}}}, True),
        ({"heads": {"h h": {"task": "regression"}}}, False),
        ({"optimizer": {"schedule": "linear"}}, False),
        ({"class_weights": {"road": 2}}, True),
        ({"class_weights": "inverse"}, True),
        ({"class_weights": {"road": -1}}, False),
        ({"data": {"sources": [{"scene": "a.tif", "labels": "b.gpkg", "class": "road", "val": [[0, 0, 5, 5]]}]}}, True),
        ({"data": {"sources": [{"scene": "a.tif", "labels": "b.gpkg", "val": [[0, 0, 5]]}]}}, False),
        ({"data": {"sources": [{"scenery": "a.tif"}]}}, False),
    ],
)
def test_it_tells_right_from_wrong(schema, config, right):
    assert jsonschema.Draft202012Validator(schema).is_valid(config) == right


def test_defaults_are_those_of_the_configuration(schema):
    defaults = json.loads(TrainConfig().model_dump_json(by_alias=True))
    for key, field in schema["properties"].items():
        if "default" in field and key != "data":
            assert field["default"] == defaults[key], key


def test_another_word_is_refused():
    done = CliRunner().invoke(geoseg, ["config", "sheme"])
    assert done.exit_code == 2
    assert "'sheme' is not 'schema'" in done.stderr
