"""Tables of one's own: what becomes of the columns of a CSV file, and what is wrong with one."""

from __future__ import annotations

import json
import random

import pytest
import torch

from data.arrays import put_aside
from data.columns import MOST
from data.table import table
from fl.errors import DataError, FlagError

FLAGS = {"label": "ill", "client": None, "drop": None, "test_fraction": 0.25, "seed": 0}
HEADER = "age,sex,site,ill"


def rows(n=12):
    """Of age 10, 11, ..., with two sexes, three sites of four rows and two labels."""
    return [f"{10 + i},{'fm'[i // 2 % 2]},{'abc'[i // 4]},{['no', 'yes'][i % 2]}" for i in range(n)]


@pytest.fixture
def load(tmp_path):
    """load(lines, flags): the data set of a file with these lines."""

    def made(lines=None, path=None, text=None, **flags):
        path = path or tmp_path / "table.csv"
        if text is None:
            text = "\n".join([HEADER, *rows()] if lines is None else lines) + "\n"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return table(path, **(FLAGS | flags))

    return made


def both(data):
    return torch.cat([data.train.examples, data.test.examples])


def parts():
    """The indices of the training rows and of the held-out rows among the twelve."""
    return put_aside(torch.arange(12) % 2, FLAGS["test_fraction"], FLAGS["seed"])


def test_numbers_are_standardised_and_texts_become_columns_by_the_training_rows_alone(load):
    data = load()
    train, test = parts()
    assert (data.classes, data.shape, data.train.examples.dtype) == (2, (1 + 2 + 3,), torch.float32)
    known = train.double() + 10
    mean, deviation = known.mean(), known.std(correction=0)
    assert mean != (torch.arange(12).double() + 10).mean()
    for part, numbers in ((data.train, train), (data.test, test)):
        expected = [(10 + numbers - mean) / deviation, numbers // 2 % 2 == 0, numbers // 2 % 2 == 1]
        expected += [numbers // 4 == site for site in range(3)]
        torch.testing.assert_close(part.examples, torch.stack([column.float() for column in expected], 1))
        assert part.targets.tolist() == (numbers % 2).tolist()


def test_what_is_missing_is_the_mean_and_marked(load):
    lines = [HEADER, *rows()]
    for i, missing in enumerate(["", "NA", "?", "null", "NaN", " "]):
        cells = lines[1 + 2 * i].split(",")
        lines[1 + 2 * i] = ",".join([missing, missing, *cells[2:]])
    data = load(lines, drop="site")
    assert data.shape == (1 + 1 + 2 + 1,)
    marked = both(data)[both(data)[:, 1] == 1]
    assert len(marked) == 6
    assert (marked[:, 0] == 0).all()
    assert (marked[:, 2:] == torch.tensor([0.0, 0.0, 1.0])).all()
    assert (both(data)[both(data)[:, 1] == 0][:, 4] == 0).all()


@pytest.mark.parametrize("text", ["other", ""])
def test_a_text_or_a_gap_that_no_training_row_has_is_all_zeros(text, load):
    lines = rows()
    number = int(parts()[1][1])
    age, _, site, label = lines[number].split(",")
    lines[number] = f"{age},{text},{site},{label}"
    data = load([HEADER, *lines], drop="site")
    assert data.shape == (1 + 2,)
    assert data.test.examples[:, 1:].sum(1).tolist() == [1, 0] + [1] * (len(data.test) - 2)


def test_few_valued_integers_stay_numbers_and_odd_texts_make_categories(load):
    lines = ["level,size,ill", *(f"{i % 3},{['1', '2', '3+'][i % 3]},{i % 2}" for i in range(12))]
    assert load(lines).shape == (1 + 3,)
    lines = ["code,ill", *(f"1_{i % 2},{i % 2}" for i in range(12))]  # which is 10 to Python
    assert load(lines).shape == (2,)


def test_labels_are_in_the_order_of_size_or_of_the_alphabet(load):
    lines = ["x,ill", *(f"{i},{[10, 9, -1][i % 3]}" for i in range(30))]
    data = load(lines)
    assert data.classes == 3
    order = both(data)[:, 0].argsort()
    assert torch.cat([data.train.targets, data.test.targets])[order].tolist() == [2, 1, 0] * 10


def test_each_client_and_label_gives_its_share_and_no_client_is_without_training_rows(load):
    draw = random.Random(0)
    sizes = [1, 1, 2, 5, 20, 60, 111]
    lines = [f"{draw.random()},s{k},{draw.randrange(2)}" for k, size in enumerate(sizes) for _ in range(size)]
    draw.shuffle(lines)
    data = load(["x,site,ill", *lines], client="site", test_fraction=0.2)
    assert data.shape == (1,)
    kept = torch.bincount(data.clients, minlength=len(sizes)).tolist()
    assert len(data.test) == 40
    for size, left in zip(sizes, kept, strict=True):
        assert 1 <= left <= size
        assert abs((size - left) - 0.2 * (size - 1)) <= 2.5
    assert kept[:2] == [1, 1]
    assert len(load(["x,site,ill", *lines], client="site", seed=1).test) == len(data.test) + 10
    assert load(["x,site,ill", *lines], client="site", test_fraction=0.2).sha256() == data.sha256()
    assert load(["x,site,ill", *lines], client="site", test_fraction=0.2, seed=1).sha256() != data.sha256()


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_quotes_and_line_ends(delimiter, load):
    plain = load()
    text = "\r\n".join([HEADER, *rows()]).replace(",", delimiter) + "\r\n\r\n"
    assert load(text=text).sha256() == plain.sha256()
    quoted = "\ufeff" + "\n".join('"' + line.replace(",", f'"{delimiter}"') + '"' for line in [HEADER, *rows()])
    assert load(text=quoted).sha256() == plain.sha256()
    spaced = "\n".join(line.replace(",", delimiter + " ") for line in [HEADER, *rows()])
    assert load(text=spaced).sha256() == plain.sha256()


def test_text_that_begins_after_the_first_thousand_rows(load):
    lines = ["x,y,ill", *(f"{i},{i % 3 if i < 1500 else 'ab'[i % 2]},{i % 2}" for i in range(2000))]
    data = load(lines)
    assert data.shape == (1 + 3 + 2,)
    assert (both(data)[:, 1:].sum(1) == 1).all()


def test_the_first_rows_do_not_decide_alone_whether_a_column_is_text(load):
    lines = ["x,ill", *(f"{i % 60},{i % 2}" for i in range(4000))]
    for first in (1, 3001):  # among the first rows that are looked at, and far behind them
        late = list(lines)
        late[first : first + 15] = [f"unknown,{i % 2}" for i in range(15)]
        with pytest.raises(DataError, match=f"row {first + 1}: 'unknown' in column x, which otherwise holds numbers"):
            load(late)


def test_a_comma_in_the_names_of_a_file_with_semicolons(load):
    data = load(["weight, kg;height, cm;age, y;ill", *(f"{i};{i % 5};{i % 7};{i % 2}" for i in range(12))])
    assert data.shape == (3,)


def test_long_numbers_may_be_names_of_clients(load):
    lines = ["x,who,ill", *(f"{i},{10**18 + i % 3},{i % 2}" for i in range(24))]
    assert sorted(set(load(lines, client="who").clients.tolist())) == [0, 1, 2]
    with pytest.raises(DataError, match="row 2: has 4 values; the header has 3 columns"):
        load(["a,b,ill", "1,2,3,0"])


def test_a_column_with_one_value_is_no_scale(load):
    lines = ["dose,x,ill", *(f"0.1,{i},{i % 2}" for i in range(100))]
    assert both(load(lines))[:, 0].abs().max() == 0
    dose = both(load([*lines, "0.2,1,0", "0.2,2,1"]))[:, 0]
    assert dose.abs().max() < 100


def test_files_that_are_read_in_parts(load, monkeypatch):
    whole = load()
    monkeypatch.setattr("data.columns.CELLS", 20)
    assert load().sha256() == whole.sha256()
    with pytest.raises(DataError, match="row 14: has 1 values"):
        load([HEADER, *rows(), "x"])
    with pytest.raises(DataError, match="row 13: 'old' in column age"):
        load([HEADER, *rows(11), "old,f,a,no"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ""}, "is empty; expected a row with the names of columns"),
        ({"text": "\n\n"}, "is empty; expected a row with the names of columns"),
        ({"lines": [HEADER]}, "has a header and no rows"),
        ({"lines": [HEADER, *rows(), "1,f,a"]}, "row 14: has 3 values; the header has 4 columns"),
        ({"lines": [HEADER, *rows(), "1,f,a,no,"]}, "row 14: has 5 values; the header has 4 columns"),
        ({"lines": [HEADER, *rows(4), "", *rows(4)]}, "row 6: has 0 values; the header has 4 columns"),
        ({"lines": ["age,sex,age,ill", *rows()]}, "two columns are called 'age'"),
        ({"lines": ["age,,site,ill", *rows()]}, "column 2 has no name"),
        ({"text": bytes(100)}, "a column is called '" + r"\x00" * 40 + "'; expected words"),
        ({"lines": ["x,ill", "1,no", "2,no"]}, "column ill holds 'no' alone; expected two classes or more"),
        ({"lines": [HEADER, *rows(), "9,f,a,maybe"]}, "row 14 alone has 'maybe' in column ill"),
        ({"lines": ["x,ill", "1,0.5", "2,0.7", "3,0.9", "4,0.9"]}, "to predict a number, make ranges of it first"),
        ({"lines": [HEADER, *rows(), "9,f,a,?"]}, "row 14: no value in column ill, the --label (1 such rows)"),
        ({"lines": [HEADER, *rows(), "9,f,,no"], "client": "site"}, "row 14: no value in column site, the --client"),
        ({"lines": [HEADER, *rows(), "old,f,a,no"]}, "row 14: 'old' in column age, which otherwise holds numbers"),
        ({"lines": [HEADER, *rows(), "1e999,f,a,no"]}, "row 14: '1e999' in column age, which otherwise holds numbers"),
        ({"lines": [HEADER, *rows(), '9,"f"m,a,no']}, "line 14: ',' expected after '\"'; expected comma-separated"),
        ({"lines": [HEADER, *rows(), '9,"f,a,no']}, "unexpected end of data; expected comma-separated values"),
        ({"text": b"age,ill\n1,no\n2,\xe9\n"}, "is not UTF-8 (byte 0xe9"),
        ({"lines": ["x;ill", *(f"{[7, '1,200', 9][i % 3]};{i % 2}" for i in range(9))]}, "such as '1,200'; write a"),
        ({"lines": ["x;ill", *(f"36,{i % 3};{i % 2}" for i in range(9))]}, "column x holds numbers with commas"),
        ({"lines": ["x,ill", *(f"{i},{['1', '0', '01'][i % 3]}" for i in range(9))]}, "column ill has '01' and '1'"),
        ({"lines": ["ill,site", *(f"{i % 2},a" for i in range(9))], "client": "site"}, "no column is left"),
        (
            {"lines": ["ill,site,x", *(f"{i % 2},{i},1" for i in range(9))], "client": "site"},
            "no row can be held out for a test, because each client of site has only one",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file(change, message, load, tmp_path):
    with pytest.raises(DataError) as error:
        load(**change)
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "table.csv"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"label": None}, "--dataset csv: needs --label, the column to predict; "),
        ({"label": "il"}, "--label il: "),
        ({"label": "il"}, "has no such column; did you mean ill?"),
        ({"client": "zzz"}, "has no such column; expected one of age, sex, site, ill"),
        ({"drop": "age,sx"}, "--drop sx: "),
        ({"client": "ill"}, "--client ill: is named twice among --label, --client and --drop"),
        ({"drop": '"sex'}, "--drop '\"sex': unexpected end of data; expected names of columns with commas between"),
        ({"drop": "\n"}, "--drop '\\n': expected names of columns with commas between them"),
        ({"drop": "ill"}, "--drop ill: is named twice among --label, --client and --drop"),
    ],
)
def test_columns_that_there_are_not(flags, message, load):
    with pytest.raises(FlagError) as error:
        load(**flags)
    assert message in str(error.value)


@pytest.mark.parametrize("count", [20, MOST + 1])
def test_names_and_numbers_of_patients_are_refused_with_what_to_drop(count, load):
    lines = ['who,"address, or so",x,ill']
    lines += [f"n{i if count > MOST or i > 7 else ''},a {i % (MOST + 1)},{i},{i % 2}" for i in range(count * 2)]
    with pytest.raises(DataError) as error:
        load(lines)
    assert "who (such as 'n" in str(error.value)
    assert str(error.value).endswith("leave them out with --drop 'who,\"address, or so\"'")
    assert load(lines, drop='who,"address, or so"').shape == (1,)


@pytest.mark.parametrize("kind", ["csv --label ill", "folder"])
def test_where_ones_own_data_are_must_be_said(kind, command):
    done = command("federated", f"--dataset {kind}")
    assert done.code == 2
    assert (
        done.err == f"run_federated.py: --dataset {kind.split()[0]}: needs --data_dir, which says where your data are\n"
    )


def test_no_file_and_a_folder(tmp_path):
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "x.csv", "cannot be read (No such file")):
        with pytest.raises(DataError, match="--data_dir") as error:
            table(path, **FLAGS)
        assert message in str(error.value)


def test_a_run_over_the_sites_of_a_table_resumes_to_the_same_bits_and_is_matched(load, command, tmp_path):
    load()
    flags = f"--dataset csv --data_dir {tmp_path / 'table.csv'} --label ill --client site --model mlp --hidden 5"
    flags += " --partition natural --num_clients 3"
    whole = command("federated", flags)
    assert whole.code == 0, whole.err
    cut = command("federated", f"{flags} --global_epoch 1", folder="cut")
    resumed = command("federated", "--resume --global_epoch 3", folder="cut")
    assert (cut.code, resumed.code) == (0, 0)
    assert resumed.sha256 == whole.sha256
    matched = command("baseline", f"--match {whole.folder}")
    assert matched.code == 0, matched.err
    assert json.loads((matched.folder / "config.json").read_text())["client"] == "site"
    other = command("federated", f"{flags.replace('mlp --hidden 5', 'small_cnn')}")
    assert other.code == 2
    assert other.err.startswith("run_federated.py: --model small_cnn: ValueError: ")
    assert other.err.endswith("expected another --model for examples of shape (3,)\n")
    alone = command("federated", f"--dataset csv --data_dir {tmp_path / 'table.csv'} --label ill --partition natural")
    assert alone.code == 2
    assert alone.err.endswith("or give --client if it is a table\n")


def test_the_model_of_a_table_is_a_perceptron_unless_another_is_named():
    from fl.check import resolve

    assert resolve({"dataset": "csv"}).model == "mlp"
    assert resolve({"dataset": "csv", "model": "logistic"}).model == "logistic"
    assert resolve({}).model == "fast_cnn"
