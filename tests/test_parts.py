"""What is said when one of the user's own parts is not what it should be."""

from __future__ import annotations

import pytest

import run_federated
from fl.names import USED
from tests.conftest import OWN, SMALL

SHORT = "--global_epoch 2 --num_select_clients 3 --quiet"


FAULTS = [
    # What no one has to be asked for: before torch is imported.
    ("model nowhere.py:net", None, "there is no file nowhere.py (seen from the working directory); expected one of f"),
    ("model own.py:", None, "expected one of fast_cnn"),
    ("model own.py", None, "expected one of fast_cnn"),
    ("model .:net", None, "expected one of fast_cnn"),
    ("transform half", None, "expected FILE.py:NAME"),
    ("attack own.py:half", "", "expected one of label_flip"),
    ("dataset nowhere.py:data", None, "there is no file nowhere.py"),
    # What the file alone can tell.
    ("model own.py:nett", OWN, "own.py has no nett; did you mean net?"),
    ("model own.py:net", "def net(:", "SyntaxError: invalid syntax (own.py, line 1); expected a file of Python"),
    ("model own.py:net", "import torch\nimport nonesuch", "ModuleNotFoundError: No module named 'nonesuch'"),
    ("model own.py:net", "raise SystemExit(0)", "SystemExit: 0; expected a file of Python"),
    ("model own.py:net", "raise KeyError('a\\nb')", "KeyError: 'a\\nb'; expected a file of Python"),
    # A model.
    ("model own.py:net", "net = 3", "is an object of builtins.int; expected a function (shape, classes) -> torch.nn"),
    ("model own.py:net", "from torch import nn\nnet = nn.ReLU()", "is an object of torch.nn.modules.activation.ReLU"),
    ("model own.py:net", "def net(): pass", "TypeError: net() takes 0 positional arguments but 2 were given; expected"),
    ("model own.py:net", "def net(shape, classes): return shape", "returned an object of builtins.tuple; expected a f"),
    ("model own.py:net", "def net(shape, classes): 1 / 0", "ZeroDivisionError: division by zero; expected a function"),
    ("model own.py:net", "from torch import nn\ndef net(s, c): return nn.Flatten()", "has no parameters to train"),
    ("model own.py:net", "from torch import nn\ndef net(s, c): return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))",
     "made a tensor (2, 9) of inputs (2, 1, 8, 8); expected logits (2, 3)"),
    ("model own.py:net", "from torch import nn\ndef net(s, c): return nn.Linear(5, c)",
     "mat1 and mat2 shapes cannot be multiplied (16x8 and 5x3); expected inputs (2, 1, 8, 8) to logits (2, 3)"),
    ("model own.py:net", "from torch import nn\ndef net(s, c): return nn.Sequential(nn.Flatten(), nn.LazyLinear(c))",
     "has lazy layers; give them their sizes, which follow from the shape (1, 8, 8)"),
    ("model own.py:N", OWN + "\nclass N(Net):\n def get_extra_state(self): return {'a': 1}\n"
     " def set_extra_state(self, state): pass", "has more than tensors of real numbers in its state_dict"),
    ("model own.py:N", OWN + "\nclass N(Net):\n def forward(self, x): return super().forward(x)[:, :3].long()",
     "made a tensor (2, 3) of inputs (2, 1, 8, 8); expected logits (2, 3)"),
    # A data set.
    ("dataset own.py:data", "def data(data_dir): return []", "returned an object of builtins.list; expected a functio"),
    ("dataset own.py:data", "def data(data_dir): open(data_dir / 'x')", "FileNotFoundError: [Errno 2] No such file"),
    ("dataset own.py:data", OWN + "\ndef data(d):\n s = Split(torch.zeros(4, 1, 8, 8), torch.ones(3).long())\n"
     " return Dataset('d', s, s, 2, 0, 1, '')", "train has 4 examples and 3 targets"),
    ("dataset own.py:data", OWN + "\ndef data(d):\n s = Split(torch.zeros(4, 1, 8, 8), torch.arange(4))\n"
     " return Dataset('d', s, s, 2, 0, 1, '')", "train has other targets than int64 from 0 to classes - 1 = 1"),
    ("dataset own.py:data", OWN + "\ndef data(d):\n t = patterns(d)\n x = t.test.examples / 255\n"
     " return replace(t, test=Split(x, t.test.targets))",
     "has training examples of torch.uint8 (1, 8, 8) and test examples of torch.float32 (1, 8, 8); expected one kind"),
    ("dataset own.py:data", OWN + "\ndef data(d):\n t = patterns(d)\n"
     " return replace(t, test=Split(t.test.examples.numpy(), t.test.targets.numpy()))", "test is an object of d"),
    # A partition.
    ("dataset own.py:data", OWN + "\ndef data(d):\n return replace(patterns(d), clients=torch.arange(30) // 10)",
     "has clients that are not (n,) int64 on the CPU, in which each of 0 to K - 1 occurs"),
    ("dataset own.py:data", OWN + "\ndef data(d):\n return replace(patterns(d), clients=torch.arange(61) // 10 * 2)",
     "has clients that are not (n,) int64"),
    ("dataset own.py:data", OWN + "\ndef data(d):\n return replace(patterns(d), mean=[0.1], std=[0.0])",
     "makes inputs that are not finite (mean is [0.1], std is [0.0])"),
    ("dataset own.py:data", OWN + "\ndef data(d):\n return replace(patterns(d), std=0)", "ZeroDivisionError: "),
    ("algorithm own.py:a", OWN + "\na = Algorithm(transfers=(0.5, 1))", "transfers is (0.5, 1); expected two integers"),
    ("partition own.py:p", OWN + "\ndef p(labels, K, seed):\n"
     " return Partition(torch.arange(61.0), torch.arange(5) * 15 + (torch.arange(5) > 3))", "expected an owner "),
    ("aggregate own.py:A", "class A: pass", "lacks some of add, gather and result; expected a function (models (m"),
    ("partition own.py:p", "def p(labels, K, seed): return labels", "returned a tensor (61,); expected a function (la"),
    ("partition own.py:p", "def p(labels, K, seed, gamma): pass", "its argument gamma is no flag; expected a function"),
    ("partition own.py:p", "def p(labels): pass", "TypeError: p() takes 1 positional argument but 3 were given"),
    ("partition own.py:p", OWN + "\ndef p(labels, K, seed): return Partition.from_owners(labels, K)",
     "ValueError: client 3 owns nothing; expected each of the clients 0 to 3 among the owners; expected a function"),
    ("partition own.py:p", OWN + "\ndef p(labels, K, seed): return Partition.from_owners(labels, 3)",
     "made 3 clients of 15 or more examples; expected --num_clients 4 of 1 or more"),
    ("partition own.py:p", OWN + "\ndef p(labels, K, seed): return Partition(torch.zeros(61).long(), 15 * "
     "torch.arange(5))", "expected an owner for each of the 61 examples, and only one"),
    # Where only a look at it is possible before it is called.
    ("algorithm own.py:a", "def a(): pass", "is an object of builtins.function; expected a fl.algorithms.algorithm"),
    ("algorithm own.py:a", OWN + "\na = Algorithm(tell=None)", "has a tell that is no function; expected a fl.algorit"),
    ("aggregate own.py:a", "a = 'median'", "is an object of builtins.str; expected a function (models (m, P), weights"),
    ("transform own.py:t", "def t(config): pass", "returned None; expected a fl.transforms.transform.Transform, or"),
    ("transform own.py:t", "t = {}", "is an object of builtins.dict; expected a fl.transforms.transform.Transform"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "source", "said"), FAULTS)
def test_what_is_wrong_is_said_in_one_line_before_a_run_begins(words, source, said, own, command):
    flag, value = words.split()
    if source is not None:
        own.write_text(source)
    done = command("federated", f"--{words}")
    assert done.code == (3 if flag == "dataset" else 2), done.err
    line, *trace = done.err.splitlines()
    assert line.startswith(f"run_federated.py: --{flag} {value}: ")
    assert said in line
    assert all(str(own) in frame or "File" not in frame for frame in trace[:3]), trace
    assert not done.folder.exists()


LATER = [
    ("aggregate own.py:f", "def f(models, weights, config): return models",
     "returned a tensor (2, 195) of models (2, 195); expected a function (models (m, P)"),
    ("aggregate own.py:f", "def f(models, weights, config): return models[9]", "IndexError: index 9 is out of bounds"),
    ("algorithm own.py:f", "f = Algorithm(tell=lambda now, clients: {})", "tell returned an object of builtins.dict; "),
    ("algorithm own.py:f", "f = Algorithm(tell=lambda now, clients: Told(Correction(drift={'a': now.n})))",
     "tell returned an object of fl.state.Told; expected a Told whose tensors are stacked as fl/state.py says"),
    ("algorithm own.py:f", "f = Algorithm(tell=lambda now, clients: Told(Correction(drift=now.w)))", "tell ret"),
    ("algorithm own.py:f", "f = Algorithm(tell=lambda now, clients: Told(Correction(drift={n: w.double().unsqueeze(0) "
     "for n, w in now.parameters.items()})))", "tell returned an object of fl.state.Told; expected a Told whose"),
    ("algorithm own.py:f", "f = Algorithm(server=lambda now, got: (got.mean, got.kept.with_clients({4: {'a': 1}})))",
     "server returned an object of builtins.tuple; expected (a model with the names, shapes and dtypes of w_t a"),
    ("aggregate own.py:A", "class A(Mean):\n    costs = {'round': 5}", "costs returned an object of builtins.dict"),
    ("aggregate own.py:A", "class A(Mean):\n    costs = {'a': torch.ones(1)}", "TypeError: Object of type Tens"),
    ("algorithm own.py:f", "f = Algorithm(tell=lambda now, clients: Told(start={'nose': torch.ones(1, 3)}))", "tell r"),
    ("aggregate own.py:A", "class A(Mean):\n    def result(self, denominator):\n"
     "        return {name: w.double() for name, w in super().result(denominator).items()}",
     "result returned an object of builtins.dict; expected a model with the names, shapes and dtypes of w_t and"),
    ("algorithm own.py:f", "f = Algorithm(server=lambda now, got: got.mean)", "server returned an object of builtins."),
    ("algorithm own.py:f", "f = Algorithm(server=lambda now, got: (now.nothing, got.kept))", "AttributeError: 'RoundS"),
    ("algorithm own.py:f", "f = Algorithm(weights=lambda now, reports: [])", "weights returned an object of builtins"),
    ("algorithm own.py:f", "f = Algorithm(prepare=lambda x, now, mine, group: x)", "prepare returned an object of fl."),
    ("transform own.py:f", "f = Transform(client=lambda now, update: None)", "client returned None; expected an Updat"),
    ("transform own.py:f", "f = Transform(server=lambda now, mean: {'a': 1})", "server returned an object of builtins"),
    ("algorithm own.py:f", "f = Algorithm(server=lambda now, got: ({n: w.half() for n, w in now.w.items()}, got.kept))",
     "server returned an object of builtins.tuple; expected (a model with the names, shapes and dtypes of w_t a"),
    ("algorithm own.py:f", "f = Algorithm(server=lambda now, got: (got.mean, got.kept.with_server(n=torch.ones(1))))",
     "expected (a model with the names, shapes and dtypes of w_t and without gradients, a Kept whose server is"),
    ("transform own.py:f", "f = Transform(finish=lambda now, got: None)", "finish returned None; expected a Got"),
    ("transform own.py:f", "f = Transform(server=lambda now, mean: {n: w.requires_grad_() for n, w in mean.items()})",
     "server returned an object of builtins.dict; expected a model with the names, shapes and dtypes of w_t "),
    ("transform own.py:f", "f = Transform(record=lambda now, got: {'a': float('nan')})", "ValueError: Out of range"),
    ("transform own.py:f", "f = Transform(record=lambda now, got: {'a': torch.ones(1)})", "TypeError: Object of type"),
    ("transform own.py:f", "f = Transform(client=lambda now, update: update._replace(reports=['a']))", "client re"),
    ("transform own.py:f", "f = Transform(record=lambda now, got: {'rejected': 2})", "record returned an object of b"),
    ("transform own.py:f", "f = Transform(finish=lambda now, got: got.with_mean({}))", "finish returned an"),
    ("algorithm own.py:f", "f = Algorithm(weights=lambda now, reports: [1e-30 for r in reports])", "weights ret"),
    ("transform own.py:f", "import numpy as np\nf = Transform(client=lambda now, update: update._replace("
     "kept={r.client: {'a': np.ones(1)} for r in update.reports}))", "client returned an object of fl.state.Update; e"),
    ("transform own.py:f", "f = Transform(record=lambda now, got: {'round': 7})", "record returned an object of b"),
    ("transform own.py:f", "f = Transform(bytes=lambda w: 1.5)", "bytes returned an object of builtins.float; expecte"),
    ("transform own.py:f", "f = Transform(client=lambda now, update: update._replace(w={}))", "client returned an obj"),
    ("model own.py:Odd", "class Odd(nn.Linear):\n    def __init__(self, shape, classes):\n"
     "        super().__init__(64, 3)\n    def forward(self, x):\n        assert not self.training, 'tired'\n"
     "        return super().forward(x.flatten(1))",
     ": AssertionError: tired"),
]  # fmt: skip


def test_a_model_of_ones_own_is_blamed_for_what_happens_in_its_layers(own, command):
    """They may be PyTorch's. With minibatches of five, a client of sixteen examples has one of one example."""
    own.write_text(OWN + "def odd(s, c): return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, c))")
    done = command("federated", "--model own.py:odd")
    (line,) = done.err.splitlines()
    assert done.code == 2
    assert line.startswith("run_federated.py: --model own.py:odd: ValueError: Expected more than 1 value per channel")


def test_a_later_run_of_the_process_blames_no_part_of_an_earlier_one(command, own):
    assert command("federated", "--model own.py:net --global_epoch 1").code == 0
    assert USED
    assert command("federated", "--global_epoch 1").code == 0
    assert not USED


@pytest.mark.parametrize(("words", "source", "said"), LATER)
def test_what_goes_wrong_in_a_round_is_said_in_one_line(words, source, said, own, command):
    own.write_text(OWN + source)
    done = command("federated", f"--{words} --engine sequential")
    assert done.code == 2, done.err
    line, *trace = done.err.splitlines()
    assert line.startswith(f"run_federated.py: --{words}: ")
    assert said in line
    assert not trace or (trace[0].startswith("Traceback") and str(own) in trace[1])
    assert [record["round"] for record in done.records] in ([0], [])


@pytest.mark.parametrize("what", ["server=lambda now, mean: mean", "finish=lambda now, got: got"])
def test_a_transform_on_the_server_would_see_more_than_the_noisy_mean(what, own, command):
    pytest.importorskip("dp_accounting", reason="noise needs dp-accounting: sh requirements.sh dp")
    own.write_text(OWN + f"f = Transform({what})\n")
    noise = "--clip_norm 1 --noise_multiplier 1 --insecure_noise"
    done = command("federated", f"--transform own.py:f {noise}")
    assert done.code == 2
    assert "--transform own.py:f: may use more than the noisy mean on the server; leave it out with" in done.err
    own.write_text(OWN)
    assert command("federated", f"--transform own.py:half --global_epoch 1 {noise}").code == 0


def test_running_statistics_are_not_compressed(own, command):
    own.write_text(OWN + "def bn(s, c): return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), "
                   "nn.Linear(8, c))\n")  # fmt: skip
    done = command("federated", "--model own.py:bn --batch_size 0 --compress random_mask")
    assert done.code == 2
    assert done.err.startswith("run_federated.py: --compress random_mask: would change buffers of --model own.py:bn, ")


def test_a_model_of_ours_that_does_not_fit_ones_own_data_is_one_line(own, command):
    own.write_text(OWN.replace("1, 8, 8", "1, 2, 2"))
    done = command("federated", "--model gn_cnn --dataset own.py:patterns")
    assert done.code == 2
    assert "--model gn_cnn: RuntimeError: " in done.err
    assert "expected inputs (2, 1, 2, 2) to logits (2, 3)" in done.err
    assert len(done.err.splitlines()) == 1


def test_flags_are_for_ones_own_too(own, command):
    """Nobody knows what it reads, so it may read any flag of its kind."""
    assert command("federated", f"{SHORT} --partition own.py:dealt --alpha 3").code == 0
    assert "or --partition dirichlet" in command("federated", "--partition iid --alpha 3").err


def test_two_names_of_one_file_are_told_apart(own, command):
    odd = "class Odd(Net):\n    def forward(self, x):\n        assert not self.training\n"
    own.write_text(OWN + odd + "        return super().forward(x)\n")
    done = command("federated", "--model own.py:Odd --dataset own.py:patterns --engine sequential")
    assert done.err.startswith("run_federated.py: --model own.py:Odd: line ")


def test_what_fails_in_a_worker_alone_is_said_by_the_worker(own, capfd):
    own.write_text(OWN + "import torch.distributed as dist\ndef alone(now, update):\n    1 / (1 - dist.get_rank())\n"
                   "    return update\nf = Transform(client=alone)\n")  # fmt: skip
    flags = f"{SMALL} {SHORT} --transform own.py:f --engine distributed --workers 2 --run_dir run"
    assert run_federated.run(flags.split()) == 6
    line, *trace, last = capfd.readouterr().err.splitlines()
    assert line.startswith("worker 1: --transform own.py:f: ZeroDivisionError: division by zero; expected client to")
    assert str(own) in trace[1]
    assert "worker 1 ended with code 6" in last


@pytest.mark.parametrize(
    ("words", "source", "what"),
    [
        ("--dataset own.py:d", "def d(data_dir):\n    data = patterns(data_dir)\n"
         "    return replace(data, train=Split((data.train.examples + os.getpid() % 251).to(torch.uint8), "
         "data.train.targets))\n", "data"),
        ("--partition own.py:p", "def p(labels, K, seed):\n    g = torch.Generator().manual_seed(os.getpid())\n"
         "    return Partition.from_owners(torch.randperm(len(labels), generator=g) % K, K)\n", "partitions"),
    ],
)  # fmt: skip
def test_what_each_process_draws_for_itself_is_refused(words, source, what, own, command):
    own.write_text(OWN + "import os\n" + source)
    assert command("federated", words).code == 0
    done = command("federated", f"{words} --workers 2")
    assert (done.code, done.err) == (
        2, f"run_federated.py: {words}: gave the processes different {what}; its result must depend on its arguments "
        "only; for random choices take `seed` as an argument\n",
    )  # fmt: skip


def test_an_error_of_ours_in_a_file_of_ones_own_is_passed_on(own, command):
    own.write_text("from fl.errors import FlagError\ndef p(labels, K, seed):\n    raise FlagError('--alpha: no')")
    done = command("federated", "--partition own.py:p")
    assert (done.code, done.err) == (2, "run_federated.py: --alpha: no\n")


def test_a_baseline_does_not_look_at_an_algorithm(own, command):
    done = command("baseline", "--algorithm own.py:net")
    assert done.code == 0, done.err
    assert "warning: --algorithm: does nothing in run_baseline.py" in done.err
