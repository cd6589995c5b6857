"""The alignment application on vLLM: a stock client gets the answers that the transformers engine gives."""

from collections.abc import Callable, Iterator

import httpx
import openai
import pytest

from rayworks.core.config import EngineSection
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.guided_decoding import GuidedEngine, GuidedGeneration, GuidedRequest
from serve import deploy
from serve.apps.alignment_answers import read_engine
from tests.conftest import FinishedRun
from tests.serve import applications
from tests.serve.deployment import Deployment

NAME, PROMPT = "alignment-vllm", "a dress:"


@pytest.fixture(scope="module")
def expected(finished_runs: Callable[[str], FinishedRun]) -> GuidedEngine:
    export = finished_runs("alignment").directory / "export"
    return read_engine(str(export), 4, "cpu", EngineSection())[0]


@pytest.fixture(scope="module")
def client(
    deployment: Deployment, finished_runs: Callable[[str], FinishedRun], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[openai.OpenAI]:
    args = applications.alignment(tmp_path_factory.mktemp("vllm"), finished_runs)["alignment"]
    with deployment.beside("alignment", {NAME: {**args, "engine": "vllm", "slots": 4}}) as file:
        deploy.deploy(file)
        yield openai.OpenAI(base_url=f"{deployment.url(NAME)}/v1", api_key=deployment.keys["tester"], max_retries=0)


def greedy(engine: GuidedEngine, weights: dict[str, object], tokens: int) -> GuidedGeneration:
    guidance = Guidance(weights)  # type: ignore[arg-type]
    request = GuidedRequest(prompt=PROMPT, max_new_tokens=tokens, temperature=0.0, guidance=guidance)
    return engine.generate([request])[0]


def test_a_stock_client_gets_guided_text_whole_and_in_a_stream(client: openai.OpenAI, expected: GuidedEngine) -> None:
    model = client.models.list().data[0].id
    weights = {"sentiment": [[0, 0.0], [2, 1.5]], "brevity": 0.5}
    whole = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=8, temperature=0, n=2, extra_body={"guidance": weights}
    )
    found = greedy(expected, weights, 8)
    assert len(whole.choices) == 2
    for choice in whole.choices:
        assert choice.text == found.text
        report = choice.model_extra["guidance"]  # type: ignore[index]
        assert report["log_z"] == pytest.approx(found.log_z, abs=1e-3)
        assert report["kl_to_base"] == pytest.approx(found.kl_to_base, abs=1e-3)
        assert report["weights"]["sentiment"] == list(found.weights["sentiment"])
    stream = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=8, temperature=0, stream=True, extra_body={"guidance": weights}
    )
    chunks = [chunk.choices[0].text for chunk in stream]
    assert len(chunks) > 1
    assert "".join(chunks) == found.text


def test_a_prompt_that_does_not_fit_is_refused_and_the_next_is_answered(
    client: openai.OpenAI, deployment: Deployment, expected: GuidedEngine
) -> None:
    model = client.models.list().data[0].id
    with pytest.raises(openai.APIStatusError, match="exceed 256"):
        client.completions.create(model=model, prompt=PROMPT, max_tokens=4000)
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=6, temperature=0)
    assert answer.choices[0].text == greedy(expected, {}, 6).text
    assert httpx.get(f"{deployment.url(NAME)}/healthz", timeout=30).json()["status"] == "ok"
