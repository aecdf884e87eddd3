"""Errors of RPC nodes: other machines that compute layers of a model for llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from modules.core.errors import WebUIError, Words
from modules.core.worker_errors import WorkerDied


@dataclass(eq=False)
class NodeError(WebUIError):
    """A node that cannot take part in a load. `node` is its address, as host:port."""

    status = 502
    node: str


@dataclass(eq=False)
class NodeUnreachable(NodeError):
    """A node to which no connection can be made. `problem` is the system's message, or ours where it has none."""

    template = {
        "en": "The RPC node {node} cannot be reached: {problem}. Start it on that machine with --rpc-server, and check "
        "its address and firewall.",
        "zh": "无法连接 RPC 节点 {node}：{problem}。请在该机器上用 --rpc-server 启动节点，并检查地址和防火墙。",
    }
    problem: str | Words


@dataclass(eq=False)
class NodeInUse(NodeError):
    """A node that accepts connections and does not answer, as it does while it serves another client."""

    status = 409
    template = {
        "en": "The RPC node {node} is in use by another program, or frozen: a node serves one client at a time. Unload "
        "the model there, or restart the node.",
        "zh": "RPC 节点 {node} 正被其他程序使用，或已停止响应：一个节点同时只能服务一个客户端。"
        "请在另一端卸载模型，或重启该节点。",
    }


@dataclass(eq=False)
class NodeIncompatible(NodeError):
    """A node of another version of the protocol, `found`, or another program, where `found` is empty."""

    template = {
        "en": "{node} cannot be used as an RPC node: {reason}. Both machines need the same version of llama.cpp "
        "(RPC protocol {needed}).",
        "zh": "无法把 {node} 用作 RPC 节点：{reason}。两台机器的 llama.cpp 版本必须相同（RPC 协议 {needed}）。",
    }
    other_version: ClassVar[Words] = {"en": "it speaks RPC protocol {found}", "zh": "其 RPC 协议版本为 {found}"}
    other_program: ClassVar[Words] = {
        "en": "what listens there does not answer as one does",
        "zh": "该端口上的程序没有按 RPC 协议应答",
    }
    found: str
    needed: str

    def shown(self, language: str) -> dict[str, object]:
        reason = self.other_version if self.found else self.other_program
        return super().shown(language) | {"reason": reason[language].format(found=self.found)}


@dataclass(eq=False)
class NodeHungUp(NodeError):
    """A node that closes the connection instead of answering."""

    template = {
        "en": "The RPC node {node} closes the connection. If it is an SSH tunnel, start the node at its other end; "
        "otherwise it is another program, or another version of llama.cpp.",
        "zh": "RPC 节点 {node} 关闭了连接。如果它是 SSH 隧道，请启动另一端的节点；"
        "否则它是其他程序，或 llama.cpp 版本不同。",
    }


@dataclass(eq=False)
class NodeTwice(NodeError):
    """A node that is listed under two names, the second of which is `other`. It would wait for itself for ever."""

    status = 400
    template = {
        "en": "{node} and {other} are the same RPC node. Remove one of them from the list.",
        "zh": "{node} 与 {other} 是同一个 RPC 节点。请从列表中删去其中一个。",
    }
    other: str


@dataclass(eq=False)
class NodeNotStarted(NodeError):
    """A node of this machine that cannot listen on its address. `problem` is the message of the system."""

    template = {
        "en": "The RPC node cannot listen on {node}: {problem}. Choose another address or port with --rpc-server.",
        "zh": "RPC 节点无法在 {node} 上监听：{problem}。请用 --rpc-server 换一个地址或端口。",
    }
    problem: str


@dataclass(eq=False)
class NodesLost(WorkerDied):
    """The end of a worker some of whose nodes, `nodes`, can no longer be reached."""

    template = {
        "en": "The model stopped while {doing}, because these RPC nodes no longer answer: {nodes}. Start them again, "
        "then load the model.",
        "zh": "模型在{doing}时停止：RPC 节点 {nodes} 已无响应。请重新启动节点，然后加载模型。",
    }
    nodes: str = ""


@dataclass(eq=False)
class NodesSilent(WorkerDied):
    """The end of a worker that was ended because its nodes, `nodes`, had computed nothing for `seconds`."""

    template = {
        "en": "The model was unloaded: no result came for {seconds} seconds while {doing}. An RPC node does not "
        "answer ({nodes}): it is frozen, or the network to it is down.",
        "zh": "模型已卸载：{doing}时 {seconds} 秒没有结果，RPC 节点无响应（{nodes}）：节点已冻结或网络中断。",
    }
    nodes: str = ""
    seconds: int = 0
