"""Networks by name: --model. A builder takes the shape of an example, such as (C, H, W), and the number of classes.

Its other arguments are flags of the same names.

The names stand here without their modules, so that reading the flags imports no torch.
A new model is one builder and one line here; an Entry says what it asks of other flags.
"""

from fl.flags.entry import Entry

MODELS: dict[str, str | Entry] = {
    "fast_cnn": Entry("fl.models.fast_cnn:fast_cnn", sgd_lr=0.001),  # its docstring says why so small
    "gn_cnn": "fl.models.gn_cnn:gn_cnn",
    "cnn": "fl.models.mcmahan2017:cnn",
    "2nn": "fl.models.mcmahan2017:two_nn",
    "cifar_cnn": "fl.models.mcmahan2017:cifar_cnn",
    "lenet": "fl.models.lenet:lenet",
    "char_lstm": Entry("fl.models.char_lstm:char_lstm", tokens=True, sgd_lr=3.0),
    "resnet18_gn": "fl.models.resnet18_gn:resnet18_gn",
    "small_cnn": "fl.models.small_cnn:small_cnn",
    "logistic": "fl.models.logistic:logistic",
    "mlp": Entry("fl.models.mlp:mlp", reads=("hidden",)),
}
