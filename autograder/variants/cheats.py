"""Attempts to get points without the work, or to escape the sandbox.

Contained means: no undeserved points, no sign of an escape, and a line for staff on suspicious code.
"""

import textwrap

from autograder.solution import ROOT
from autograder.variants import Variant, changed, textbook

FORWARD = "        out = w_rows.matmul(cols)\n"


def convolution(name: str, call: str, before: str = "", max_points: float = 0.0, review: str = "", reason: str = "") -> Variant:
    """A right solution whose forward pass calls a library convolution; `before` precedes the class."""
    source = before + changed("convolution", (FORWARD, textwrap.indent(textwrap.dedent(call).strip("\n"), " " * 8)
                                              + "\n        out = out.flatten(2)\n"))
    return Variant(name, "convolution", source.replace("        if bias is not None:\n            out = out + bias.view(1, Co, 1)\n", ""),
                   reason, max_points, review)


def escape(name: str, attempt: str, review: str = "", part: str = "attention", reason: str = "",
           max_points: float | None = None) -> Variant:
    """Run `attempt` on import; if it succeeds, the file raises ESCAPED."""
    attempt = textwrap.dedent(attempt).strip("\n").format(root=str(ROOT))
    source = ("\ntry:\n" + textwrap.indent(attempt, "    ")
              + "\nexcept BaseException:\n    pass\nelse:\n    raise RuntimeError('ESCAPED')\n")
    return Variant(name, part, source, reason, max_points, review)


def hostile(name: str, source: str, part: str = "attention", reason: str = "", max_points: float = 0.0, review: str = "") -> Variant:
    return Variant(name, part, textwrap.dedent(source), reason, max_points, review)


ARGUMENTS = "input_feats, weight, bias, stride, padding"
SEVEN = "input_feats, weight, bias, [stride] * 2, [padding] * 2, [1, 1]"
CONVOLUTIONS = [
    convolution("F.conv2d", f"out = F.conv2d({ARGUMENTS})"),
    convolution("torch.conv2d, bound at import", f"out = _product({ARGUMENTS})", "_product = torch.conv2d\n"),
    convolution("by getattr and pieces of a string", f"out = getattr(F, 'co' + 'nv2d')({ARGUMENTS})", review="getattr"),
    convolution("torch.ops.aten.convolution", f"out = torch.ops.aten.convolution({SEVEN}, False, [0, 0], 1)", review="ops"),
    convolution("an overload of torch.ops", f"out = torch.ops.aten.conv2d.default({SEVEN}, 1)", review="ops"),
    convolution("nn.Conv2d", """
        layer = nn.Conv2d(Ci, Co, K, stride, padding, bias=bias is not None, dtype=weight.dtype)
        layer.weight.data = weight.detach()
        if bias is not None: layer.bias.data = bias.detach()
        out = layer(input_feats)"""),
    convolution("torch.jit, from a string", f"out = _unit.f({ARGUMENTS})", """
_unit = torch.jit.CompilationUnit(
    "def f(x, w, b: Optional[Tensor], s: int, p: int):\\n    return torch.conv2d(x, w, b, [s, s], [p, p])\\n")
""", review="jit"),
    convolution("torch.jit.trace", """
        given = (input_feats.detach(), weight.detach())
        out = torch.jit.trace(lambda x, w: torch.conv2d(x, w, None, stride, padding), given)(*given)
        out = out if bias is None else out + bias.view(-1, 1, 1)""", review="jit"),
    convolution("mkldnn", "out = torch.ops.mkldnn._convolution_pointwise(input_feats.float(), weight.float(), None if bias is "
                "None else bias.float(), [padding] * 2, [stride] * 2, [1, 1], 1, 'none', [], '').to(weight.dtype)", review="ops"),
    convolution("torch.mkldnn_convolution", "out = torch.mkldnn_convolution(input_feats.float(), weight.float(), None if bias is None "
                "else bias.float(), [padding] * 2, [stride] * 2, [1, 1], 1).to(weight.dtype)"),
    convolution("conv3d", "out = F.conv3d(input_feats[:, :, None], weight[:, :, None], bias, (1, stride, stride), (0, padding, padding))[:, :, 0]"),
    convolution("transposed convolution's gradient", """
        with torch.enable_grad():
            seed = torch.zeros(N, Co, Ho, Wo, dtype=weight.dtype, requires_grad=True)
            rest = ((H + 2 * padding - K) % stride, (W + 2 * padding - K) % stride)
            up = F.conv_transpose2d(seed, weight, None, stride, padding, rest)
        out = torch.autograd.grad(up, seed, input_feats)[0]
        out = out if bias is None else out + bias.view(-1, 1, 1)"""),
    convolution("vmap", "out = torch.vmap(lambda x: F.conv2d(x[None], weight, bias, stride, padding)[0])(input_feats)"),
    convolution("inference mode", f"""
        with torch.inference_mode():
            out = F.conv2d({ARGUMENTS}).clone()
        out = out.clone()"""),
    convolution("a thread", f"""
        import threading
        box = []
        thread = threading.Thread(target=lambda: box.append(F.conv2d({ARGUMENTS})))
        thread.start(); thread.join()
        out = box[0]""", review="threading"),
    convolution("TorchDispatch disabled", f"""
        with torch._C._DisableTorchDispatch():
            out = torch._C._nn.slow_conv3d(input_feats[:, :, None], weight[:, :, None], (1, K, K), bias, (1, stride, stride), (0, padding, padding))[:, :, 0]""",
                review="_C"),
    convolution("below autograd", f"""
        with torch._C._AutoDispatchBelowAutograd():
            out = torch._C._VariableFunctions.conv2d({ARGUMENTS})""", review="_C"),
    convolution("the grader's kernels overridden again", f"out = F.conv2d({ARGUMENTS})", """
import torch.library
_mine = torch.library.Library("aten", "IMPL")
def _kernel(x, w, b=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), *rest):
    return torch.mkldnn_convolution(x.float(), w.float(), None if b is None else b.float(), padding, stride, dilation, 1).to(x.dtype)
for _name in ("conv2d", "convolution", "_convolution"):
    for _key in ("CPU", "CompositeImplicitAutograd", "CompositeExplicitAutograd", "AutogradCPU"):
        try:
            _mine.impl(_name, _kernel, _key)
        except Exception:
            continue
""", review="library"),
    convolution("the grader's registrations found by gc and undone", f"out = F.conv2d({ARGUMENTS})", """
import gc, weakref
for _thing in gc.get_objects():
    try:
        if type(_thing).__name__ in ("Library", "_DispatchModule") or hasattr(type(_thing), "_destroy"):
            _thing._destroy()
        if hasattr(_thing, "reset") and "ispatch" in type(_thing).__name__:
            _thing.reset()
    except Exception:
        continue
for _final in list(weakref.finalize._registry):
    if "_del_library" in str(_final.peek()):
        _final()
""", review="gc"),
    convolution("another process", f"""
        import subprocess, sys
        out = torch.tensor(eval(subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True).stdout))""",
                review="subprocess"),
    convolution("OpenCV", """
        import cv2, numpy as np
        x = F.pad(input_feats, (padding,) * 4).numpy()
        full = np.array([[sum(cv2.filter2D(x[n, c], cv2.CV_64F, weight[o, c].double().numpy(), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
                              for c in range(Ci)) for o in range(Co)] for n in range(N)])
        out = torch.from_numpy(full)[:, :, :stride * Ho:stride, :stride * Wo:stride].to(weight.dtype).contiguous()
        out = out if bias is None else out + bias.view(-1, 1, 1)"""),
    convolution("a network read by cv2.dnn", "import cv2\nnet = cv2.dnn.readNetFromONNX('model.onnx')\nout = net.forward()", review="dnn",
                reason="readNetFromONNX is a convolution function"),
    convolution("a network layer of OpenCV", "import cv2\nnet = cv2.dnn_Net()\nout = net.forward()",
                reason="dnn_Net is a convolution function"),
    convolution("SciPy", """
        import numpy as np
        from scipy.signal import correlate2d
        x = F.pad(input_feats, (padding,) * 4).numpy()
        full = np.array([[sum(correlate2d(x[n, c], weight[o, c].numpy(), "valid") for c in range(Ci)) for o in range(Co)] for n in range(N)])
        out = torch.from_numpy(full)[:, :, ::stride, ::stride].contiguous()
        out = out if bias is None else out + bias.view(-1, 1, 1)""", review="scipy"),
    convolution("deformable convolution with no deformation", """
        x = input_feats
        out = _deform(x, torch.zeros(N, 2 * K * K, Ho, Wo, dtype=x.dtype), weight, bias, stride=stride, padding=padding)""",
                "import torchvision.ops as _o\n_deform = _o.deform_conv2d\n", review="ops"),
    convolution("OpenCV, by cv2._native", """
        import numpy as np
        x = F.pad(input_feats, (padding,) * 4).numpy()
        full = np.array([[sum(_filter(x[n, c], cv2.CV_64F, weight[o, c].double().numpy(), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
                              for c in range(Ci)) for o in range(Co)] for n in range(N)])
        out = torch.from_numpy(full)[:, :, :stride * Ho:stride, :stride * Wo:stride].to(weight.dtype).contiguous()
        out = out if bias is None else out + bias.view(-1, 1, 1)""", "_filter = cv2._native.filter2D\n", max_points=0.0, review="_native"),
    convolution("redispatched to another backend", """
        out = _ops.aten.mkldnn_convolution.default.redispatch(_c.DispatchKeySet(_c.DispatchKey.XLA), input_feats.float(), weight.float(),
            None if bias is None else bias.float(), [padding] * 2, [stride] * 2, [1, 1], 1).to(weight.dtype)""",
                "import torch._C as _c\n_ops = vars(torch)['ops']\n", review="_C"),
    Variant("convolution in backward by an alias", "convolution", "from torch.nn import grad as _g\n" + changed(
        "convolution", ("grad_weight = grad_rows.matmul(cols.transpose(1, 2)).sum(dim=0)",
                        "grad_weight = _g.conv2d_weight(ctx.x, weight.shape, grad_output, stride, padding)"),
        ("ctx.save_for_backward(cols, weight, bias)", "ctx.save_for_backward(cols, weight, bias)\n        ctx.x = input_feats"),
        ("grad_weight = grad_weight.view(Co, Ci, K, K)", "grad_weight = grad_weight.reshape(Co, Ci, K, K)")), max_points=1.3),
]
REPLY = '''
import os as _os, json as _json
def _forge():
    head = _json.dumps({"head": {"id": 2, "facts": {}}, "arrays": [["y", "float64", [2, 3, 4, 3]], ["dx", "float64", [2, 3, 4, 3]]]}).encode()
    frame = len(head).to_bytes(8, "little") + head + b"\\0" * (2 * 8 * 72)
    for fd in range(3, 64):
        try:
            _os.write(fd, frame)
        except OSError:
            continue
'''
# Replies to the first two questions, framed as the grader's own worker frames them.
STORED = '''
import os as _os, json as _json
import numpy as _np
def _frame(number, **arrays):
    table = [[name, str(array.dtype), list(array.shape)] for name, array in arrays.items()]
    head = _json.dumps({"head": {"id": number, "facts": {}}, "arrays": table}).encode()
    return len(head).to_bytes(8, "little") + head + b"".join(array.tobytes() for array in arrays.values())
def _answer(tag):
    for fd in range(3, 16):
        try:
            if not _os.fstat(fd).st_size:
                _os.write(fd, _frame(1) + tag + _frame(2, y=_np.zeros((2, 3, 4, 8))) + tag)
        except OSError:
            continue
'''
FORGERIES = [
    hostile("a reply to each question, without a signature", STORED + "\n_answer(b'')\n", reason="not signed", review="write"),
    hostile("a reply with a random signature", STORED + "\n_answer(_os.urandom(32))\n", reason="not signed", review="write"),
    hostile("a reply with a signature by an unknown key", STORED + "\nimport hashlib\n_answer(hashlib.blake2b(_frame(1), key=bytes(32), "
            "digest_size=32).digest())\n", reason="not signed", review="hashlib"),
    hostile("json.dumps replaced", "import json\n_dumps = json.dumps\njson.dumps = lambda x, **k: _dumps({**x, 'head': {**x['head'], 'facts': {}}}, **k)\n"
            + textbook.ATTENTION.replace("x = self.proj(x)", "x = 0 * self.proj(x)"), review="replaces json.dumps"),
    hostile("byte code in an error message", "import operator\n" + textbook.ATTENTION.replace(
            "return x", "raise ValueError(operator.attrgetter('__co' + 'de__')(type(self).forward).co_code.hex())"), review="operator"),
    hostile("attributes by a format string", "_text = '{0.__co' + 'de__.co_code}'\n" + textbook.ATTENTION.replace(
            "return x", "raise ValueError(_text.format(type(self).forward))"), review="format"),
    hostile("three thousand threads", "import threading, time\nthreading.stack_size(32768)\n"
            "for _ in range(3000): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n" + textbook.ATTENTION,
            reason="threads|cannot start|can't start", review="threading"),
    hostile("many files", "for n in range(100):\n    with open(f'f{n}', 'wb') as file: file.truncate(50 << 20)\n" + textbook.ATTENTION,
            reason="MB of files", review="open"),
    hostile("a slow reply to every question", textbook.ATTENTION.replace("B, H, W, C = x.shape", "__import__('time').sleep(18); B, H, W, C = x.shape"),
            max_points=0.8, reason="longer than", review="__import__"),
    hostile("forged frames on every file descriptor", REPLY + "\n_forge()\n", reason="wrong id|cannot be used|malformed|without a reply"),
    hostile("garbage on every file descriptor", "import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b'\\xff' * 4096)\n"
            "    except OSError:\n        continue\n", reason="malformed|wrong id"),
    hostile("a frame header of a terabyte", "import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, (1 << 40).to_bytes(8, 'little'))\n"
            "    except OSError:\n        continue\n", reason="malformed"),
    hostile("exit 0 at import", "import os\nos._exit(0)\n", reason="exit status 0", review="_exit"),
    hostile("sys.exit at import", "import sys\nsys.exit(0)\n", reason="SystemExit"),
    hostile("exit 0 in the middle", textbook.ATTENTION.replace("B, H, W, C = x.shape", "import os; os._exit(0)"), reason="exit status 0"),
    hostile("an endless loop at import", "while True: pass\n", reason="longer than"),
    hostile("an endless loop in forward", textbook.ATTENTION.replace("        B, H, W, C = x.shape", "        while True: pass"), reason="longer than"),
    hostile("sleep with all signals ignored", "import signal, time\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
            "    except (OSError, ValueError): continue\ntime.sleep(10**6)\n", reason="longer than", review="signal"),
    hostile("a segmentation fault", "import ctypes\nctypes.string_at(0)\n", reason="SIGSEGV", review="ctypes"),
    hostile("torch.equal and torch.allclose always True", "torch.equal = lambda *a: True\ntorch.allclose = lambda *a, **k: True\n"
            + textbook.ATTENTION.replace("x = self.proj(x)", "x = 0 * self.proj(x)"), review="replaces torch"),
    hostile("NaN as the result", textbook.ATTENTION.replace("x = self.proj(x)", "x = self.proj(x) * float('nan')"), reason="NaN"),
    hostile("a list as the result", textbook.ATTENTION.replace("return x", "return [x]"), reason="not a tensor"),
    hostile("a tensor subclass that equals everything", textbook.ATTENTION + """
class _Liar(torch.Tensor):
    def __eq__(self, other): return True
    def numpy(self): return self
Attention.forward = lambda self, x: torch.zeros_like(x).as_subclass(_Liar)
""", reason="Attention|raises"),
    hostile("a gigabyte printed", "for _ in range(1024): print('x' * (1 << 20))\n" + textbook.ATTENTION, max_points=2.0),
    hostile("all file descriptors closed", "import os\nos.closerange(3, 256)\n", reason="closed the grader's pipe|malformed|without a reply"),
    hostile("a thread that writes zeros into the pipe", "import os, threading\ndef _spam():\n    while True:\n"
            "        for fd in range(3, 16):\n            try: os.write(fd, b'\\0' * 64)\n            except OSError: continue\n"
            "threading.Thread(target=_spam, daemon=True).start()\n", reason="reply", review="threading"),
    hostile("PGD that returns its input", "class PGDAttack:\n    def __init__(self, *a, **k): pass\n    def perturb(self, model, input):\n"
            "        return input.clone()\n", part="pgd", reason="nothing was attacked"),
    hostile("PGD by random noise", "class PGDAttack:\n    def __init__(self, loss_fn, num_steps=10, step_size=0.01, epsilon=0.1): self.e, self.n = epsilon, num_steps\n"
            "    def perturb(self, model, input):\n        with torch.no_grad():\n            for _ in range(self.n): model(input)\n"
            "        return input + self.e * torch.sign(torch.randn_like(input))\n", part="pgd", max_points=1.4, reason="climbs|moved|steps"),
    hostile("a ViT of one linear layer", "class SimpleViT(nn.Module):\n    def __init__(self, img_size=128, num_classes=100, in_chans=3, use_abs_pos=True, **k):\n"
            "        super().__init__()\n        self.f = nn.Linear(in_chans * img_size ** 2, num_classes)\n"
            "    def forward(self, x): return self.f(x.flatten(1))\n", part="vit", max_points=0.6, reason="TransformerBlock"),
    hostile("the starter's unimplemented Attention", "class Attention(nn.Module):\n    def __init__(self, *a, **k): super().__init__()\n"
            "    def forward(self, x): raise NotImplementedError('3.2.1')\n", reason="no layers qkv|not written yet"),
    hostile("the known-good parts, from the grader's stack frames", """
import traceback
_b = {}
for _f, _ in traceback.walk_stack(None):
    _b.update({k: v for k, v in _f.f_locals.items() if k in ("tasks", "graft")} | {k: v for k, v in _f.f_globals.items() if k in ("tasks", "graft")})
_g = _b["graft"].REPLACEMENTS
class Attention(_g["GoodAttention"]): pass
""", reason="KeyError", review="traceback"),
    hostile("an error message with terminal escapes", "raise ValueError('\\x1b[2J\\nattention        2.00    2  \\ud800 ')\n", reason=r"\\x1b\[2J attention"),
    hostile("an error reply with malformed frames", """
import os, json
class Attention:
    def __init__(self, *a, **k):
        head = json.dumps({"head": {"id": 2, "error": {"type": "E", "text": "t", "where": [1]}}, "arrays": []}).encode()
        for fd in range(3, 16):
            try: os.write(fd, len(head).to_bytes(8, "little") + head)
            except OSError: continue
""", reason="malformed"),
    hostile("closes the pipe and sleeps", "import os, time\nos.closerange(3, 64)\ntime.sleep(1000)\n", reason="closed the grader's pipe"),
    hostile("folders nested 1500 deep", "import os\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')\n" + textbook.ATTENTION,
            reason="cannot be listed", review="chdir"),
    hostile("results from NumPy's and random's generators", textbook.ATTENTION.replace("return x", "import numpy as np, random\n        return x * (np.random.rand() < 2) * (random.random() < 2)"), max_points=2.0),
    hostile("a deep recursion", "def f(n): return f(n + 1)\nf(0)\n", reason="RecursionError"),
    hostile("a constructor that never returns", textbook.ATTENTION.replace("super().__init__()", "super().__init__()\n        __import__('time').sleep(10**6)"),
            reason="longer than", review="__import__"),
]
ESCAPES = [
    escape("importing the repository's solution", "import sys\nsys.path.insert(0, {root!r} + '/code')\nimport extras.attacks", review="sys"),
    escape("the grader's sources, by path", "open({root!r} + '/autograder/parts/pgd.py').read()", review="open"),
    escape("the grader's modules, by import", "import autograder.parts.pgd"),
    escape("writing outside the scratch folder", "open('/tmp/ESCAPED', 'w').write('x')", review="open"),
    escape("writing into the submission", "open(__file__, 'a').write('#')", review="open"),
    escape("listing home folders", "import os\nos.listdir('/root'); os.listdir('/home')"),
    escape("reading /etc/passwd", "open('/etc/passwd').read()", review="open"),
    escape("the grader's memory", "import os\nopen(f'/proc/{{os.getppid()}}/mem', 'rb').read(1)", review="open"),
    escape("the grader's environment", "import os\nopen(f'/proc/{{os.getppid()}}/environ').read()", review="open"),
    escape("a connection", "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)", review="socket"),
    escape("a listening port", "import socket\nsocket.socket().bind(('127.0.0.1', 0))", review="socket"),
    escape("a shell", "import os\nif os.system('true') != 0: raise OSError", review="system"),
    escape("a program", "import subprocess\nsubprocess.check_call(['/bin/true'])", review="subprocess"),
    escape("fork", "import os\nif os.fork() == 0: os._exit(0)", review="fork"),
    escape("multiprocessing", "import multiprocessing\nq = multiprocessing.Process(target=print); q.start()", review="multiprocessing"),
    escape("killing the grader", "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", review="kill"),
    escape("killing all processes", "import os, signal\nos.kill(-1, signal.SIGKILL)", review="kill"),
    escape("leaving the process group", "import os\nos.setsid()"),
    escape("raising RLIMIT_CPU", "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (-1, -1))", review="resource"),
    escape("a signal through a pipe (F_SETOWN)", "import fcntl, os, time\nr, w = os.pipe()\nfcntl.fcntl(r, 8, os.getppid()); fcntl.fcntl(r, 10, 9)\n"
           "fcntl.fcntl(r, 4, fcntl.fcntl(r, 3) | 0o20000)\nos.write(w, b'x'); time.sleep(1)", review="fcntl"),
    escape("four gigabytes of shared memory", "import mmap\nmmap.mmap(-1, 4 << 30)", review="mmap"),
    escape("memfd_create", "import os\nos.memfd_create('x')"),
    escape("the grader's priority", "import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 19)"),
    escape("clearing the parent-death signal", "import ctypes\nif ctypes.CDLL(None, use_errno=True).prctl(1, 0, 0, 0, 0): raise OSError", review="ctypes"),
    escape("ptrace", "import ctypes, os\nif ctypes.CDLL(None, use_errno=True).ptrace(16, os.getppid(), 0, 0): raise OSError", review="ctypes"),
    escape("four gigabytes", "bytearray(4 << 30)"),
    escape("four gigabytes of tensor", "torch.ones(4 << 28)"),
    escape("a file of a gigabyte", "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
           "with open('large', 'wb') as file: file.truncate(1 << 30)", review="open"),
    escape("a new namespace", "import ctypes\nif ctypes.CDLL(None, use_errno=True).unshare(0x10000000): raise OSError", review="ctypes"),
    escape("a file that is deleted while it is open", "file = open('f', 'wb')\nimport os\nos.unlink('f')", review="open"),
    escape("a file without a name", "import os\nos.close(os.open('.', os.O_TMPFILE | os.O_RDWR))", review="os.open"),
    escape("a folder that nobody can list", "import os\nos.mkdir('hidden', 0o300)"),
    escape("a mask that makes such folders", "import os\nos.umask(0o777)", review="umask"),
    escape("a fifo", "import os\nos.mkfifo('f')", review="mkfifo"),
    escape("space beyond a file's end", "import os\nos.posix_fallocate(os.open('f', os.O_CREAT | os.O_RDWR), 0, 1 << 20)", review="os.open"),
    escape("chmod of a foreign file", "import os\nos.chmod('/tmp', 0o777)"),
]

CHEATS = [*CONVOLUTIONS, *FORGERIES, *ESCAPES]
