#!/usr/bin/env python3
"""Explore vLLM as a server, from a terminal.

Starts vLLM's OpenAI-compatible server, sends it four kinds of requests, prints
what was sent, what came back and how long it took, and stops the server:

  1. a completion        POST /v1/completions         text in, the text goes on
  2. a chat              POST /v1/chat/completions    messages in, an answer out
  3. a streamed chat     the same with "stream": true tokens as they are made
  4. concurrent chats    many clients at once         continuous batching at work

The numbers: TTFT is the time to the first token, TPOT the time for each token
after it, and output tokens/s counts all clients together.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

EXAMPLES = """\
examples:
  python explore_server_mode.py
      the model that fits this machine; without a GPU the small one that ships
  python explore_server_mode.py --model Qwen/Qwen2.5-0.5B-Instruct --concurrency 32
  python explore_server_mode.py --option max_num_seqs=4 --concurrency 16
      any option of `vllm serve`, by vLLM's own name: see what it changes
  python explore_server_mode.py --keep-running --port 8000
      leave the server up and try curl yourself; Ctrl-C ends it
  python explore_server_mode.py --connect http://127.0.0.1:8000 --api-key KEY
      send the requests to a server that is up already

what to try next: double --concurrency until output tokens/s stop growing, and
watch what happens to TTFT. Notebook 5 does this step by step.
"""

QUESTIONS = (
    "What is a KV cache?",
    "What is continuous batching?",
    "What is tensor parallelism?",
    "What is a prefill?",
    "What is speculative decoding?",
    "What is a draft model?",
    "What is prefix caching?",
    "What is a token?",
)


class Failure(Exception):
    """Something that ends the program with one sentence."""


class Parser(argparse.ArgumentParser):
    """What cannot be used ends the program as every failure does: one sentence, exit code 1."""

    def error(self, message: str):
        """End the program with what is wrong."""
        self.exit(1, f"error: {message} (python {self.prog} --help explains the options)\n")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """What was asked for, checked; ends the program when it cannot be used."""
    parser = Parser(
        prog="explore_server_mode.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--model", metavar="NAME", help="a Hugging Face id or a folder (default: fits this machine)"
    )
    dummy = "random weights: a model's real shape without a download"
    add("--load-format", choices=["dummy"], help=dummy)
    add("--port", type=int, metavar="N", help="port on 127.0.0.1 (default: a free one)")
    option = "an option of `vllm serve`, such as max_num_seqs=4; can be given again"
    add("--option", action="append", default=[], metavar="NAME=VALUE", help=option)
    clients = "clients at the same time (default: %(default)s)"
    add("--concurrency", type=int, default=8, metavar="N", help=clients)
    requests = "concurrent requests in all (default: 2 a client)"
    add("--requests", type=int, metavar="N", help=requests)
    longest = "longest answer in tokens (default: %(default)s)"
    add("--max-tokens", type=int, default=64, metavar="N", help=longest)
    keep = "leave the server up at the end, until Ctrl-C"
    add("--keep-running", action="store_true", help=keep)
    there = "use a server that is up already; nothing is started or stopped"
    add("--connect", metavar="URL", help=there)
    key = (
        "the key for --connect (or the variable VLLM_API_KEY); for a server started here: "
        "this key instead of a new one"
    )
    add("--api-key", metavar="KEY", help=key)
    add("--json", metavar="FILE", help="write the report as JSON, too")
    given = parser.parse_args(argv)
    for name in ("concurrency", "requests", "max_tokens"):
        value = getattr(given, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    ours = (given.model, given.port, given.option, given.keep_running, given.load_format)
    if given.connect and any(ours):
        parser.error(
            "--connect uses a server as it is: leave --model, --load-format, --port, --option and "
            "--keep-running out"
        )
    given.options = dict(read_option(parser, text) for text in given.option)
    given.requests = given.requests or 2 * given.concurrency
    if given.json and not Path(given.json).absolute().parent.is_dir():
        parser.error(f"--json: the folder of {given.json} does not exist")
    return given


def read_option(parser: Parser, text: str) -> tuple[str, object]:
    """Read "max_num_seqs=4" as ("max_num_seqs", 4).

    Numbers, true, false and JSON are read as such, the rest is text.
    """
    name, equals, value = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    if not name or not equals:
        parser.error(f"--option {text!r}: write NAME=VALUE, such as max_num_seqs=4")
    try:
        return name, json.loads(value.lower() if value.lower() in ("true", "false") else value)
    except ValueError:
        return name, value


def main(argv: list[str] | None = None) -> int:
    """Run the program; its exit code."""
    given = arguments(argv)
    try:
        run(given)
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C; no server is left.", file=sys.stderr)
        return 130
    except Exception as error:
        # vLLM's and the helpers' own errors are one sentence; anything else is shortened to one.
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def run(given: argparse.Namespace) -> None:
    """Start or find the server, explore it, stop it. Raises Failure, or the helpers' own errors."""
    try:
        from helpers.engine.profile import load_profile
        from helpers.server import connect, start_server
    except ImportError as error:
        raise Failure(
            f"{error.name or error} is not installed here: run `make setup` once, then "
            "`source .venv/bin/activate`."
        ) from None

    if given.connect:
        server = connect(given.connect, given.api_key or os.environ.get("VLLM_API_KEY", ""))
        print(f"Connected to {server.url}, model {server.model}.")
    else:
        profile = load_profile(model=given.model, load_format=given.load_format)
        print(f"Machine  {profile.machine}")
        print(f"Model    {profile.model_label} ({profile.weights} weights)")
        print("Starting the server ...", flush=True)
        server = start_server(profile, port=given.port, api_key=given.api_key, **given.options)
        print(f"Up after {server.startup_s:.1f} s at {server.url}, log {server.log_path}")
        print("The same by hand:\n" + textwrap.indent(server.command, "  "))
    with server:
        report = explore(server, given)
        if given.json:
            write(given.json, report)
        if given.keep_running:
            keep_running(server)
    if server.stop_report:
        print(f"\nServer {server.stop_report}.")


def explore(server, given: argparse.Namespace) -> dict:
    """Send the four kinds of requests and print what comes back; returns the report."""
    client = server.openai(timeout=300)
    common = {"max_tokens": given.max_tokens, "temperature": 0}
    report = {
        "url": server.url,
        "model": server.model,
        "options": server.engine_args,
        "startup_s": None if given.connect else server.startup_s,
        "completion": completion(client, server.model),
        "chat": chat(client, server.model, common),
    }
    alone, report["stream"] = streamed_chat(server, common)
    report["concurrent"] = concurrent_chats(server, given, common, alone)
    shown = [f"{name}={value}" for name, value in server.engine_args.items() if name != "model"]
    if shown:
        heading("Options of this server")
        print(wrapped(", ".join(shown), "  "))
    return report


def completion(client, model: str) -> dict:
    """Let the model go on with a text."""
    heading("1. A completion", "POST /v1/completions")
    prompt, started = "vLLM is", time.perf_counter()
    answer = client.completions.create(model=model, prompt=prompt, max_tokens=24, temperature=0)
    note = (
        "The model goes on with the text. One that has learned chats alone, like the one that "
        "ships, has little to say here."
    )
    print(wrapped(note, "  "))
    return answered(prompt, answer.choices[0].text, answer, time.perf_counter() - started)


def chat(client, model: str, common: dict) -> dict:
    """Ask a question."""
    heading("2. A chat", "POST /v1/chat/completions")
    started = time.perf_counter()
    answer = client.chat.completions.create(model=model, messages=asking(0), **common)
    text = answer.choices[0].message.content
    return answered(QUESTIONS[0], text, answer, time.perf_counter() - started)


def streamed_chat(server, common: dict) -> tuple[dict, dict]:
    """Ask the same with streaming: (numbers of this one client, its part of the report)."""
    from helpers.server import timed_stream

    heading("3. A streamed chat", 'the same with "stream": true')
    timed_stream(server, messages=asking(1), max_tokens=8)  # the first is slower: not in the times
    stream = timed_stream(server, messages=asking(0), **common)
    if stream.error:
        raise Failure(f"The streamed chat broke off: {stream.error}")
    alone = summary([stream], stream.e2e_s)
    ttft, tpot = f"{alone['ttft_ms_p50']:.0f} ms", f"{alone['tpot_ms_p50']:.1f} ms"
    print(f"  came back    {len(stream.chunks)} chunks, the first after {ttft} (TTFT)")
    speed = f"{alone['output_tokens_per_s']:,.0f} output tokens/s for one client"
    print(f"  then         a token every {tpot} (TPOT): {speed}")
    return alone, {**alone, "chunks": len(stream.chunks), "text": stream.text}


def concurrent_chats(server, given: argparse.Namespace, common: dict, alone: dict) -> dict:
    """Ask with many clients at once, and compare with the one that was `alone`."""
    from helpers.server import timed_stream

    clients = given.concurrency
    heading(
        f"4. Concurrent chats: {given.requests} requests, {clients} at a time",
        "continuous batching",
    )
    client = server.openai(timeout=300)

    def ask(i: int):
        return timed_stream(server, messages=asking(i), client=client, **common)

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, range(given.requests)))
    many = summary(answers, time.perf_counter() - started)
    if lost := [one.error for one in answers if one.error]:
        raise Failure(
            f"{len(lost)} of {len(answers)} concurrent requests were not answered: {lost[0]}"
        )
    print(f"  {'':14}{'TTFT p50':>10}{'TTFT max':>10}{'TPOT p50':>10}{'output tokens/s':>17}")
    for label, row in (("one client", alone), (f"{clients} clients", many)):
        print(
            f"  {label:14}{row['ttft_ms_p50']:>7.0f} ms{row['ttft_ms_max']:>7.0f} ms"
            f"{row['tpot_ms_p50']:>7.1f} ms{row['output_tokens_per_s']:>17,.0f}"
        )
    gain = many["output_tokens_per_s"] / alone["output_tokens_per_s"]
    print(f"  In this one run {clients} clients got {gain:.1f} times the tokens of one client.")
    return {**many, "concurrency": clients}


def asking(i: int) -> list[dict]:
    """The messages of a chat that asks one of the questions."""
    return [{"role": "user", "content": QUESTIONS[i % len(QUESTIONS)]}]


def summary(streams: list, seconds: float) -> dict:
    """The numbers of streams that ran together."""
    ttft = [1e3 * s.ttft_s for s in streams if s.ttft_s is not None] or [0.0]
    tpot = [1e3 * s.tpot_s for s in streams if s.tpot_s is not None] or [0.0]
    output_tokens = sum(s.output_tokens for s in streams)
    return {
        "requests": len(streams),
        "seconds": seconds,
        "output_tokens": output_tokens,
        "output_tokens_per_s": output_tokens / seconds,
        "ttft_ms_p50": statistics.median(ttft),
        "ttft_ms_max": max(ttft),
        "tpot_ms_p50": statistics.median(tpot),
    }


def heading(title: str, what: str = "") -> None:
    """Print where a part begins."""
    print(f"\n{title}" + (f"   ({what})" if what else ""), flush=True)


def wrapped(text: str, indent: str) -> str:
    """The text in lines of at most 96 columns, those after the first as deep as `indent`."""
    return textwrap.fill(text, 96, initial_indent=indent, subsequent_indent=" " * len(indent))


def answered(sent: str, text: str, answer, seconds: float) -> dict:
    """Print what was sent and what came back; its part of the report."""
    usage, finish_reason = answer.usage, answer.choices[0].finish_reason
    print(f"  sent         {sent!r}")
    print(wrapped(repr(text), "  came back    "))
    print(
        f"  tokens       {usage.prompt_tokens} in, {usage.completion_tokens} out, "
        f"ended by {finish_reason!r}; {seconds:.2f} s"
    )
    return {
        "sent": sent,
        "text": text,
        "prompt_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "finish_reason": finish_reason,
        "seconds": seconds,
    }


def write(path: str, report: dict) -> None:
    """Write the report as JSON. Raises Failure when it cannot be written."""
    try:
        Path(path).write_text(json.dumps(report, indent=1, default=str) + "\n")
    except OSError as error:
        raise Failure(f"The report cannot be written to {path}: {error.strerror}.") from None
    print(f"\nReport written to {path}")


def keep_running(server) -> None:
    """Wait for Ctrl-C. Raises Failure when the server ends before."""
    body = json.dumps({"model": server.model, "messages": asking(-1)})
    try:
        print(
            f"\nThe server stays up at {server.url}. Try it from another terminal:\n"
            f"  export VLLM_API_KEY={server.api_key}\n"
            f'  curl {server.url}/v1/chat/completions -H "Authorization: Bearer $VLLM_API_KEY" '
            f"-H 'Content-Type: application/json' \\\n    -d '{body}'\n"
            "Ctrl-C ends it.",
            flush=True,
        )
        while server.is_up:
            time.sleep(1)
    except KeyboardInterrupt:
        print("\nCtrl-C: stopping the server.")
        return
    raise Failure(f"The server ended by itself; its log: {server.log_path}")


if __name__ == "__main__":
    sys.exit(main())
