"""Pseudonyms: raw ids of users are published nowhere, who is who stays on this machine, and all fits together."""

import json

import pytest

from dataset_builder.tables import load_tables
from rdrec.checkpoints.loading import check_same_catalog, load_pretrained
from rdrec.errors import UserError
from rdrec.publishing.pseudonyms import Pseudonyms
from rdrec.publishing.verify import stage
from rdrec.tasks.data import TaskData
from tests.fakes.releasing import asked


@pytest.fixture
def users(sample_data):
    return sample_data.raw_ids["user"]


def files_of_model(folder):
    return {path.name: path for path in folder.iterdir()}


def test_what_is_published_knows_no_raw_id_of_a_user_and_loads(sample_dir, tiny_checkpoint, tmp_path, users):
    push = asked("--dataset", sample_dir, "--pseudonyms", tmp_path / "users.json")
    (part,) = push.parts()
    model_files = push.pseudonyms.of_model(files_of_model(tiny_checkpoint))
    published = stage(part.files, tmp_path / "dataset"), stage(model_files, tmp_path / "model")
    content = [path.read_bytes() for folder in published for path in folder.rglob("*") if path.is_file()]
    assert len(content) > 10 and not [raw for raw in users if any(raw.encode() in one for one in content)]
    tables, (model, tokenizer) = load_tables(published[0]), load_pretrained(str(published[1]))
    data = TaskData(tables)
    check_same_catalog(tokenizer, data, "model", "dataset")
    pseudonyms = data.raw_ids["user"]
    assert len(set(pseudonyms)) == len(users) and all(len(one) == 32 for one in pseudonyms)
    # Only names changed: a question by pseudonym is answered as one by raw id is.
    original, by_raw_id = load_pretrained(str(tiny_checkpoint))
    assert tokenizer.catalog["item"] == by_raw_id.catalog["item"]
    answers = [
        one.recommend(words, history=words.catalog["item"][:3], user=words.catalog["user"][4], k=5)
        for one, words in ((model, tokenizer), (original, by_raw_id))
    ]
    assert answers[0] == answers[1]
    local = load_tables(sample_dir)
    assert tables.info["pseudonyms_of"] == local.info["fingerprint"] != tables.info["fingerprint"]
    assert tables.interactions.equals(local.interactions)
    assert f"`{local.info['fingerprint']}`" in part.files["README.md"].decode()


def test_the_map_stays_here_and_gives_the_same_again(sample_dir, tmp_path, users):
    path = tmp_path / "private" / "users.json"
    path.parent.mkdir()
    first = Pseudonyms.of_file(path)
    made = first.of_users(users)
    first.write()
    assert path.stat().st_mode & 0o077 == 0
    kept = json.loads(path.read_text())
    assert kept["users"] == dict(zip(users, made)) and not set(kept["users"]) & set(made)
    again = Pseudonyms.of_file(path)
    assert again.of_users(users[5:]) == made[5:] and again.users == kept["users"]
    again.of_users(["somebody new"])
    again.write()
    assert len(json.loads(path.read_text())["users"]) == len(users) + 1
    # Another salt: nobody can match two publishers' users.
    assert not set(Pseudonyms.of_file(tmp_path / "none").of_users(users)) & set(made)
    pushes = [asked("--dataset", sample_dir, "--pseudonyms", path).parts()[0].files for _ in range(2)]
    assert pushes[0] == pushes[1]


def test_the_map_is_written_before_anything_is_sent_and_not_by_a_dry_run(hub, sample_dir, tmp_path, monkeypatch):
    path = tmp_path / "users.json"
    asked("--dataset", sample_dir, "--pseudonyms", path, "--dry_run").run()
    assert not path.exists()

    def lost(*rest):
        assert path.is_file() and not hub.repos
        raise UserError("the connection broke")

    monkeypatch.setattr("rdrec.publishing.push.Hub.inspect", lost)
    with pytest.raises(UserError, match="the connection broke"):
        asked("--dataset", sample_dir, "--pseudonyms", path).run()


def test_a_map_that_is_none_or_would_be_sent_is_refused(sample_dir, tmp_path):
    other = tmp_path / "other.json"
    for content in ("{}", '{"salt": "short", "users": {}}', "[1]", "no JSON", '{"salt": 5, "users": {}}'):
        other.write_text(content)
        with pytest.raises(UserError, match="other.json: no"):
            asked("--dataset", sample_dir, "--pseudonyms", other)
        assert other.read_text() == content
    with pytest.raises(UserError, match="lies in --dataset .*, which is pushed: keep it apart"):
        asked("--dataset", sample_dir, "--pseudonyms", sample_dir / "catalog" / "users.json")
    with pytest.raises(UserError, match="--pseudonyms is for the users of a model or dataset"):
        asked("--metrics", "ranking", "--pseudonyms", other)
