"""Train the embedded demo model: a small BERT intent classifier distilled from a larger one.

The student keeps the teacher's WordPiece tokenizer, cut down to the pieces the training texts
use, and starts from a compressed copy of the teacher: word embeddings and layers are projected
on the principal directions of the teacher's hidden states, and only the strongest attention
heads and feed-forward units are kept. It then learns to reproduce the teacher's logits, pooled
output and hidden states on freshly augmented training texts. Everything runs on one CPU core.

    python train.py --teacher DIR --train train.csv --test test.jsonl --output DIR
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import string
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)
from transformers.models.bert.modeling_bert import BertLayer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
HEAD_SIZE = 32
MAX_TOKENS = 128
SAMPLE_TEXTS = 1000
PROBE_TEXTS = (
    "I still have not received my new card",
    "where is my new card?",
    "why was I charged twice for the same payment?",
)


class Settings(argparse.Namespace):
    """The command line's options."""

    teacher: Path
    train: Path
    test: Path
    output: Path
    holdout: float
    seed: int
    threads: int
    epochs: int
    batch_size: int
    lr: float
    hidden: int
    feed_forward: int
    teacher_layers: list[int]
    extra_words: int
    dropout: float
    plain_share: float
    temperature: float
    hidden_weight: float
    pooled_weight: float
    label_weight: float


Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Dataset:
    """Texts and the index of each one's label."""

    texts: list[str]
    labels: list[int]

    def subset(self, indices: Sequence[int]) -> Dataset:
        """Return the examples at `indices`, in that order."""
        return Dataset([self.texts[i] for i in indices], [self.labels[i] for i in indices])


# --- data ---------------------------------------------------------------------------------------


def read_train(path: Path, label2id: dict[str, int]) -> Dataset:
    """Read the training CSV (columns `text` and `category`)."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return Dataset([r["text"].strip() for r in rows], [label2id[r["category"]] for r in rows])


def read_test(path: Path, label2id: dict[str, int]) -> Dataset:
    """Read the test file (one JSON object a line, fields `text` and `label`)."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return Dataset([r["text"] for r in rows], [label2id[r["label"]] for r in rows])


def stratified_split(data: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split `data` into (kept, held out), taking `fraction` of every label's examples."""
    rng = random.Random(seed)
    by_label: dict[int, list[int]] = {}
    for index, label in enumerate(data.labels):
        by_label.setdefault(label, []).append(index)
    held: set[int] = set()
    for indices in by_label.values():
        held.update(rng.sample(indices, round(fraction * len(indices))))
    kept = [i for i in range(len(data.texts)) if i not in held]
    return data.subset(kept), data.subset(sorted(held))


# --- vocabulary ---------------------------------------------------------------------------------


def nearest_neighbours(embeddings: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the cosine similarities and indices of each row's `count` nearest other rows."""
    unit = functional.normalize(embeddings, dim=-1)
    similarity = unit @ unit.T
    similarity.fill_diagonal_(-1.0)
    top = similarity.topk(count, dim=-1)
    return top.values, top.indices


def choose_pieces(
    tokenizer: Tokenizer, texts: list[str], embeddings: Tensor, extra: int
) -> list[int]:
    """Choose the teacher's token ids to keep: special tokens first, the others in old order.

    Kept are the pieces of `texts`, single ASCII characters (so that an unknown word can still be
    spelt out), and `extra` whole words close in meaning to frequent ones, which the augmentation
    then puts into the texts.
    """
    vocab = tokenizer.get_vocab()
    counts = Counter(t for e in tokenizer.encode_batch(texts) for t in e.ids)
    characters = string.ascii_lowercase + string.digits + string.punctuation
    wanted = set(counts) | {vocab[p + c] for c in characters for p in ("", "##") if p + c in vocab}
    words = [i for w, i in vocab.items() if w.isascii() and w.isalpha() and len(w) > 2]
    fresh = torch.tensor(sorted(i for i in words if i not in wanted))
    anchors = torch.tensor([i for i in words if counts[i] >= 5])
    near = (
        functional.normalize(embeddings[fresh], dim=-1)
        @ functional.normalize(embeddings[anchors], dim=-1).T
    )
    wanted |= set(fresh[near.amax(dim=1).topk(extra).indices].tolist())
    special = [vocab[token] for token in SPECIAL_TOKENS]
    return special + sorted(wanted - set(special))


def cut_tokenizer(tokenizer: Tokenizer, kept: list[int]) -> Tokenizer:
    """Return `tokenizer` with only the tokens `kept`, renumbered in that order."""
    spec = json.loads(tokenizer.to_str())
    new_id = {tokenizer.id_to_token(old): new for new, old in enumerate(kept)}
    spec["model"]["vocab"] = new_id
    for token in spec["added_tokens"]:
        token["id"] = new_id[token["content"]]
    spec["added_tokens"].sort(key=lambda token: token["id"])
    for token in spec["post_processor"]["special_tokens"].values():
        token["ids"] = [new_id[name] for name in token["tokens"]]
    return Tokenizer.from_str(json.dumps(spec))


# --- augmentation -------------------------------------------------------------------------------


class Augmenter:
    """Makes varied copies of training texts; the teacher, not the old label, says what they mean.

    Words are dropped, swapped, misspelt or replaced by a word with a similar teacher embedding,
    and some texts are cut short or joined with part of another one.
    """

    def __init__(self, words: list[str], embeddings: Tensor, seed: int) -> None:
        self.rng = random.Random(seed)
        similarities, indices = nearest_neighbours(embeddings, 6)
        self.neighbours = {
            word: [words[j] for s, j in zip(row_s, row_i, strict=True) if s > 0.4]
            for word, row_s, row_i in zip(
                words, similarities.tolist(), indices.tolist(), strict=True
            )
        }

    def _misspell(self, word: str) -> str:
        """Drop, double or swap one letter of `word`."""
        at = self.rng.randrange(len(word) - 1)
        first, second = word[at], word[at + 1]
        pair = self.rng.choice((second, first + first + second, second + first))
        return word[:at] + pair + word[at + 2 :]

    def _vary_word(self, word: str, strength: float) -> str:
        """Return `word`, a neighbour of it, a misspelling, or nothing."""
        draw = self.rng.random() / strength
        if draw < 0.08:
            return ""
        core = word.lower().strip(string.punctuation)
        if draw < 0.28 and self.neighbours.get(core):
            return word.lower().replace(core, self.rng.choice(self.neighbours[core]))
        if 0.28 <= draw < 0.31 and len(core) > 3:
            return self._misspell(word)
        return word

    def __call__(self, text: str, other: str) -> str:
        """Return a varied copy of `text`, sometimes with a part of `other` in it."""
        rng = self.rng
        words = text.split()
        draw = rng.random()
        if draw < 0.1 and len(words) > 8:
            start = rng.randrange(len(words) // 2)
            words = words[start : start + max(5, len(words) // 2)]
        elif draw < 0.2:
            tail = other.split()
            words = words[:12] + tail[rng.randrange(len(tail)) :][:10]
        strength = rng.choice((0.5, 1.0, 1.5))
        varied = [v for v in (self._vary_word(w, strength) for w in words) if v] or words
        if rng.random() < 0.2 and len(varied) > 2:
            at = rng.randrange(len(varied) - 1)
            varied[at], varied[at + 1] = varied[at + 1], varied[at]
        result = " ".join(varied)
        return result.rstrip(string.punctuation) if rng.random() < 0.2 else result


# --- batches ------------------------------------------------------------------------------------


def pad_batch(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Return `rows` padded with token 0, and the attention mask."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def bucketed(rows: list[list[int]], batch_size: int, rng: random.Random) -> Iterator[list[int]]:
    """Yield lists of indices of rows of like length, in random order, to keep padding low."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), rng.random()))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    rng.shuffle(batches)
    yield from batches


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Return the token ids of `texts`, special tokens included, cut to the model's length."""
    return [
        e.ids if len(e.ids) <= MAX_TOKENS else [*e.ids[: MAX_TOKENS - 1], e.ids[-1]]
        for e in tokenizer.encode_batch(texts)
    ]


@torch.no_grad()
def evaluate(model: BertForSequenceClassification, tokenizer: Tokenizer, data: Dataset) -> float:
    """Return the accuracy of `model` on `data`."""
    model.eval()
    rows = encode(tokenizer, data.texts)
    correct = 0
    for batch in bucketed(rows, 64, random.Random(0)):
        ids, mask = pad_batch([rows[i] for i in batch])
        predicted = model(input_ids=ids, attention_mask=mask).logits.argmax(-1)
        correct += int((predicted == torch.tensor([data.labels[i] for i in batch])).sum())
    return correct / len(rows)


# --- student ------------------------------------------------------------------------------------


class Recorder:
    """Runs the teacher over sample texts and keeps what chosen modules received and returned."""

    def __init__(self, teacher: BertForSequenceClassification, rows: list[list[int]]) -> None:
        self.teacher = teacher
        self.rows = rows

    @torch.no_grad()
    def __call__(self, *modules: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Return (inputs, outputs) of each of `modules`, padding left out."""
        seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {m: [] for m in modules}
        mask = torch.empty(0)

        def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            # Most modules see one vector per token, the pooler and the classifier one per text.
            real = mask.bool() if output.dim() == 3 else slice(None)
            seen[module].append((args[0][real], output[real]))

        hooks = [m.register_forward_hook(keep) for m in modules]
        for batch in bucketed(self.rows, 64, random.Random(0)):
            ids, mask = pad_batch([self.rows[i] for i in batch])
            self.teacher(input_ids=ids, attention_mask=mask)
        for hook in hooks:
            hook.remove()
        return [
            (torch.cat([a for a, _ in seen[m]]), torch.cat([b for _, b in seen[m]]))
            for m in modules
        ]


def principal_directions(hidden: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return an orthonormal basis (columns) of the `size` strongest directions of `hidden`.

    The basis is turned at random so that its axes carry similar variance: LayerNorm, which
    divides all axes by one number, then does nearly the same to the student as to the teacher.
    """
    _, vectors = torch.linalg.eigh(hidden.T @ hidden)
    turn, _ = torch.linalg.qr(torch.randn(size, size, generator=generator))
    return vectors[:, -size:] @ turn


def fit_linear(layer: nn.Linear, inputs: Tensor, targets: Tensor) -> None:
    """Set `layer` to the ridge regression of `targets` on `inputs`."""
    mean_x, mean_y = inputs.mean(0), targets.mean(0)
    x, y = inputs - mean_x, targets - mean_y
    gram = x.T @ x
    gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
    weight = torch.linalg.solve(gram, x.T @ y).T
    layer.weight.copy_(weight)
    layer.bias.copy_(mean_y - weight @ mean_x)


def project_inputs(
    layer: nn.Linear, source: nn.Linear, keep: Tensor, basis: Tensor, mean: Tensor
) -> None:
    """Set `layer` to the rows `keep` of `source`, reading inputs projected on `basis`.

    What the projection loses of the average input goes into the bias.
    """
    weight = source.weight[keep]
    layer.weight.copy_(weight @ basis)
    layer.bias.copy_(source.bias[keep] + weight @ (mean - basis @ (basis.T @ mean)))


def fit_layer_norm(norm: nn.LayerNorm, inputs: Tensor, targets: Tensor) -> None:
    """Set the scale and shift of `norm` so that it maps `inputs` to `targets` at best."""
    normal = functional.layer_norm(inputs, inputs.shape[-1:])
    centred = normal - normal.mean(0)
    scale = (centred * (targets - targets.mean(0))).sum(0) / centred.square().sum(0)
    norm.weight.copy_(scale)
    norm.bias.copy_(targets.mean(0) - scale * normal.mean(0))


def compress_layer(layer: BertLayer, source: BertLayer, record: Recorder, basis: Tensor) -> None:
    """Set one student layer from one teacher layer: projected, with the strongest parts kept."""
    attention, out = source.attention, source.output
    recorded = record(
        attention.self.query,
        attention.output.dense,
        attention.output.LayerNorm,
        source.intermediate.dense,
        out.dense,
        out.LayerNorm,
    )
    (hidden, _), (context, mixed), norm1, (middle, _), (units, fed), norm2 = recorded

    # A head matters as much as what it adds to the hidden state.
    added = [
        (context[:, columns] @ attention.output.dense.weight[:, columns].T).square().sum()
        for columns in torch.arange(context.shape[1]).split(HEAD_SIZE)
    ]
    heads = torch.stack(added).topk(basis.shape[1] // HEAD_SIZE).indices.sort().values
    keep = (heads[:, None] * HEAD_SIZE + torch.arange(HEAD_SIZE)).flatten()
    for name in ("query", "key", "value"):
        target, original = getattr(layer.attention.self, name), getattr(attention.self, name)
        project_inputs(target, original, keep, basis, hidden.mean(0))
    fit_linear(layer.attention.output.dense, context[:, keep], mixed @ basis)
    fit_layer_norm(layer.attention.output.LayerNorm, norm1[0] @ basis, norm1[1] @ basis)

    strength = units.std(0) * out.dense.weight.norm(dim=0)
    keep = strength.topk(layer.intermediate.dense.out_features).indices
    project_inputs(layer.intermediate.dense, source.intermediate.dense, keep, basis, middle.mean(0))
    fit_linear(layer.output.dense, units[:, keep], fed @ basis)
    fit_layer_norm(layer.output.LayerNorm, norm2[0] @ basis, norm2[1] @ basis)


@dataclass(frozen=True)
class Student:
    """The student model and how its states line up with the teacher's."""

    model: BertForSequenceClassification
    basis: Tensor  # teacher hidden size x student hidden size
    pooled_units: Tensor  # the teacher's pooled units which the student's stand for
    layers: tuple[int, ...]  # the teacher layer that each student layer stands for
    teacher_ids: Tensor  # the teacher's id of each of the student's tokens


def student_config(teacher: BertConfig, vocab_size: int, settings: Settings) -> BertConfig:
    """Return the student's configuration."""
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=settings.hidden,
        num_hidden_layers=len(settings.teacher_layers),
        num_attention_heads=settings.hidden // HEAD_SIZE,
        intermediate_size=settings.feed_forward,
        max_position_embeddings=MAX_TOKENS,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        pad_token_id=0,
        id2label=teacher.id2label,
        label2id=teacher.label2id,
        problem_type="single_label_classification",
    )


@torch.no_grad()
def compress(
    teacher: BertForSequenceClassification,
    rows: list[list[int]],
    kept: list[int],
    settings: Settings,
) -> Student:
    """Make the student from the teacher, using its activations on `rows` (teacher token ids)."""
    model = BertForSequenceClassification(student_config(teacher.config, len(kept), settings))
    record = Recorder(teacher, rows)
    old, new = teacher.bert, model.bert
    blocks = [old.encoder.layer[i] for i in settings.teacher_layers]
    norms = [old.embeddings.LayerNorm, *(b.output.LayerNorm for b in blocks)]
    hidden = torch.cat([output for _, output in record(*norms)])
    generator = torch.Generator().manual_seed(settings.seed)
    basis = principal_directions(hidden, settings.hidden, generator)

    tables, old_tables = new.embeddings, old.embeddings
    tables.word_embeddings.weight.copy_(old_tables.word_embeddings.weight[kept] @ basis)
    positions = old_tables.position_embeddings.weight[:MAX_TOKENS]
    tables.position_embeddings.weight.copy_(positions @ basis)
    tables.token_type_embeddings.weight.copy_(old_tables.token_type_embeddings.weight @ basis)
    [(before, after)] = record(old_tables.LayerNorm)
    fit_layer_norm(tables.LayerNorm, before @ basis, after @ basis)
    for layer, block in zip(new.encoder.layer, blocks, strict=True):
        compress_layer(layer, block, record, basis)

    [(first, _)] = record(old.pooler.dense)
    [(pooled, logits)] = record(teacher.classifier)
    strength = pooled.std(0) * teacher.classifier.weight.norm(dim=0)
    units = strength.topk(settings.hidden).indices
    project_inputs(new.pooler.dense, old.pooler.dense, units, basis, first.mean(0))
    fit_linear(model.classifier, pooled[:, units], logits)
    return Student(model, basis, units, tuple(settings.teacher_layers), torch.tensor(kept))


# --- distillation -------------------------------------------------------------------------------


def encode_states(
    model: BertForSequenceClassification, ids: Tensor, mask: Tensor
) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Return the hidden states, the pooled output and the logits of `model` as float32."""
    out = model.bert(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    logits = model.classifier(model.dropout(out.pooler_output))
    return tuple(h.float() for h in out.hidden_states), out.pooler_output.float(), logits.float()


def distillation_loss(
    student: Student,
    teacher: BertForSequenceClassification,
    batch: Batch,
    settings: Settings,
) -> Tensor:
    """Return the loss of one batch: logits, pooled output, hidden states and labels."""
    ids, mask, labels = batch
    with torch.no_grad():
        target_hidden, target_pooled, target_logits = encode_states(
            teacher, student.teacher_ids[ids], mask
        )
    hidden, pooled, logits = encode_states(student.model, ids, mask)

    heat = settings.temperature
    goal = functional.log_softmax(target_logits / heat, -1)
    loss = heat**2 * functional.kl_div(
        functional.log_softmax(logits / heat, -1), goal, log_target=True, reduction="batchmean"
    )
    loss = loss + settings.pooled_weight * functional.mse_loss(
        pooled, target_pooled[:, student.pooled_units]
    )
    real = mask.bool()
    for state, layer in zip(hidden[1:], student.layers, strict=True):
        target = target_hidden[layer + 1][real] @ student.basis
        error = functional.mse_loss(state[real], target) / target.square().mean()
        loss = loss + settings.hidden_weight * error / len(student.layers)
    if (labels >= 0).any():
        loss = loss + settings.label_weight * functional.cross_entropy(logits, labels)
    return loss


class EpochBatches:
    """The batches of an epoch, new on each pass: every text once, as it is or varied.

    A batch is (student token ids, attention mask, labels); a varied text has the label -100.
    """

    def __init__(
        self, data: Dataset, tokenizer: Tokenizer, augmenter: Augmenter, settings: Settings
    ) -> None:
        self.data = data
        self.tokenizer = tokenizer
        self.augmenter = augmenter
        self.settings = settings
        self.rng = random.Random(settings.seed)

    def __len__(self) -> int:
        return math.ceil(len(self.data.texts) / self.settings.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        texts, labels = [], []
        for text, label in zip(self.data.texts, self.data.labels, strict=True):
            plain = self.rng.random() < self.settings.plain_share
            other = self.rng.choice(self.data.texts)
            texts.append(text if plain else self.augmenter(text, other))
            labels.append(label if plain else -100)
        rows = encode(self.tokenizer, texts)
        for batch in bucketed(rows, self.settings.batch_size, self.rng):
            ids, mask = pad_batch([rows[i] for i in batch])
            yield ids, mask, torch.tensor([labels[i] for i in batch])


def distil(
    student: Student,
    teacher: BertForSequenceClassification,
    batches: EpochBatches,
    settings: Settings,
    report: Callable[[str], None],
) -> None:
    """Train the student, and report after every epoch."""
    model = student.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        settings.lr,
        total_steps=settings.epochs * len(batches) + 1,
        pct_start=0.06,
        anneal_strategy="linear",
        cycle_momentum=False,
    )
    # bfloat16 makes the teacher three times as fast; for the student's small matrices, with their
    # backward pass, float32 is faster.
    teacher = teacher.to(torch.bfloat16)
    for epoch in range(1, settings.epochs + 1):
        model.train()
        losses = []
        for batch in batches:
            loss = distillation_loss(student, teacher, batch, settings)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            losses.append(float(loss.detach()))
        report(f"epoch {epoch}/{settings.epochs}: loss {sum(losses) / len(losses):.4f}")


# --- command line -------------------------------------------------------------------------------


def save(model: BertForSequenceClassification, tokenizer: Tokenizer, output: Path) -> None:
    """Write the model (fp16) and the tokenizer in the Hugging Face layout."""
    output.mkdir(parents=True, exist_ok=True)
    weights = {name: w.half().contiguous() for name, w in model.state_dict().items()}
    (output / "model.safetensors").write_bytes(save_tensors(weights, metadata={"format": "pt"}))
    config = model.config.to_dict()
    config.update(architectures=["BertForSequenceClassification"], dtype="float16")
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(str(output / "tokenizer.json"), pretty=False)
    options = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "tokenize_chinese_chars": True,
        "strip_accents": None,
        "model_max_length": MAX_TOKENS,
        **{f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS},
    }
    text = json.dumps(options, indent=2) + "\n"
    (output / "tokenizer_config.json").write_text(text, encoding="utf-8")


def parse_args(argv: Sequence[str] | None = None) -> Settings:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Distil the embedded demo intent model.")
    add = parser.add_argument
    add("--teacher", type=Path, required=True, help="folder of the teacher model")
    add("--train", type=Path, required=True, help="training CSV, columns text and category")
    add("--test", type=Path, required=True, help="test JSON lines, fields text and label")
    add("--output", type=Path, required=True, help="folder to write the student to")
    add(
        "--holdout",
        type=float,
        default=0.0,
        help="share of the training data to hold out and score instead of the test data",
    )
    add("--seed", type=int, default=7)
    add("--threads", type=int, default=1)
    add("--epochs", type=int, default=12)
    add("--batch-size", type=int, default=32)
    add("--lr", type=float, default=1e-3, help="highest learning rate")
    add("--hidden", type=int, default=256, help="hidden size, a multiple of 32")
    add("--feed-forward", type=int, default=384, help="feed-forward size")
    add(
        "--teacher-layers",
        type=int,
        nargs="+",
        default=[0, 2, 4, 5],
        help="teacher layers, counted from 0, that the student's layers start from",
    )
    add("--extra-words", type=int, default=300, help="words to keep beyond the training data's")
    add("--dropout", type=float, default=0.0)
    add("--plain-share", type=float, default=0.4, help="share of texts left as they are")
    add("--temperature", type=float, default=2.0)
    add("--hidden-weight", type=float, default=1.0, help="weight of the hidden states' loss")
    add("--pooled-weight", type=float, default=5.0, help="weight of the pooled output's loss")
    add("--label-weight", type=float, default=0.5, help="weight of the labels' cross-entropy")
    return parser.parse_args(argv, namespace=Settings())


def build(
    teacher: BertForSequenceClassification,
    teacher_tokenizer: Tokenizer,
    texts: list[str],
    settings: Settings,
) -> tuple[Student, Tokenizer, Augmenter]:
    """Return the untrained student, its tokenizer, and the augmenter for its vocabulary."""
    embeddings = teacher.get_input_embeddings().weight.detach()
    kept = choose_pieces(teacher_tokenizer, texts, embeddings, settings.extra_words)
    names = [teacher_tokenizer.id_to_token(i) for i in kept]
    whole = [n for n, name in enumerate(names) if name.isalpha() and len(name) > 2]
    augmenter = Augmenter(
        [names[n] for n in whole], embeddings[[kept[n] for n in whole]], settings.seed
    )
    sample = random.Random(settings.seed).sample(texts, min(SAMPLE_TEXTS, len(texts)))
    student = compress(teacher, encode(teacher_tokenizer, sample), kept, settings)
    return student, cut_tokenizer(teacher_tokenizer, kept), augmenter


def check(folder: Path, test: Dataset | None) -> None:
    """Load the files written and print the accuracy on `test` and a few predictions."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in PROBE_TEXTS:
        with torch.no_grad():
            best = int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())
        print(f"{text!r} -> {model.config.id2label[best]}")
    if test is not None:
        accuracy = evaluate(model, tokenizer.backend_tokenizer, test)
        print(f"test accuracy {accuracy:.4f} ({len(test.texts)} texts; fp16 weights, fp32 compute)")


def main() -> None:
    """Train and save the student, then check what was saved."""
    settings = parse_args()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    started = time.monotonic()

    teacher = AutoModelForSequenceClassification.from_pretrained(
        settings.teacher, dtype=torch.float32
    ).eval()
    teacher_tokenizer = AutoTokenizer.from_pretrained(settings.teacher).backend_tokenizer
    train = read_train(settings.train, teacher.config.label2id)
    held = None
    if settings.holdout:
        train, held = stratified_split(train, settings.holdout, seed=0)
    student, tokenizer, augmenter = build(teacher, teacher_tokenizer, train.texts, settings)

    def report(text: str) -> None:
        """Print `text`, the time, and, where some data is held out, the accuracy on it."""
        score = (
            f", held-out accuracy {evaluate(student.model, tokenizer, held):.4f}" if held else ""
        )
        print(f"{text}, {time.monotonic() - started:.0f} s{score}", flush=True)

    parameters = sum(p.numel() for p in student.model.parameters())
    report(f"{len(train.texts)} texts, {len(student.teacher_ids)} pieces, {parameters} parameters")
    batches = EpochBatches(train, tokenizer, augmenter, settings)
    distil(student, teacher, batches, settings, report)
    save(student.model, tokenizer, settings.output)
    # The test data is read only here, and not at all while settings are being chosen.
    test = None if held else read_test(settings.test, teacher.config.label2id)
    check(settings.output, test)


if __name__ == "__main__":
    main()
