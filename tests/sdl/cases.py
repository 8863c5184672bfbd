"""Every rule broken once or more. In each text, the line that must be blamed carries the comment `# here`."""

from __future__ import annotations

from dataclasses import dataclass

from tests.sdl.samples import DIGEST, GOOD, LEASED_IP, MINIMAL

HERE = "# here"


@dataclass(frozen=True, slots=True)
class Case:
    """A broken SDL. `missed`: the pinned official validator lets it pass, though the chain does not."""

    rule: str
    text: str
    missed: bool = False

    @property
    def line(self) -> int:
        """Where the finding must be, from 1; the first line where nothing is marked."""
        lines = self.text.split("\n")
        return next((number for number, line in enumerate(lines, 1) if HERE in line), 1)


def edit(rule: str, *pairs: tuple[str, str], base: str = GOOD, missed: bool = False) -> Case:
    """A good SDL with each first text replaced by the second."""
    text = base
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    return Case(rule, text, missed)


IMAGE = f"example/llm:1.0{DIGEST}"
RAM = "            attributes:\n              class: ram\n              persistent: false\n"
NVME = "            attributes:\n              class: beta3\n              persistent: true\n"
H100 = "                - model: h100\n                  ram: 80Gi\n                  interface: sxm\n"
OFF = '          next_cases: ["off"]\n'
WORLD = "        to:\n          - global: true\n"
FIRST = "to: [{global: true, ip: first-ip}]"
PARAMS = "    params:\n"
VERSION = 'version: "2.0"'
PORT = "- port: 8000"
PORT_HERE = (PORT, f"{PORT} {HERE}")
SERVICE_HERE = ("  llm:\n    image", f"  llm: {HERE}\n    image")
SERVICES_HERE = ("services:", f"services: {HERE}")

YAML_CASES = [
    Case("yaml-syntax", f"services: {{ {HERE}"),
    Case("yaml-syntax", f"services:\n\tllm: {HERE}\n"),
    Case("yaml-syntax", "version: '2.0'\nx: \x07\n"),
    Case("yaml-size", "#" + "x" * 600_000),
    Case("yaml-size", "a:\n" + "- 1\n" * 39_997 + f"- 1 {HERE}\n- 1\n"),
    Case("yaml-depth", "a: " + "[" * 100_000),
    Case("yaml-documents", f"a: 1\n--- {HERE}\nb: 2\n"),
    Case("yaml-root", "- version\n"),
    Case("yaml-root", "# nothing\n"),
    Case("yaml-tag", f"a: 1\nb: !!python/object/apply:os.system [id] {HERE}\n"),
    Case("yaml-tag", f"a: 1\nb: !thing x {HERE}\n"),
    Case("yaml-tag", f"a: 1\nb: !!binary eA== {HERE}\n"),
    Case("yaml-alias", f"a: 1\nb: *nothing {HERE}\n"),
    Case("yaml-alias", f"x: 1\na: &a\n  [*a] {HERE}\n"),
    Case(
        "yaml-alias",
        "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}] {HERE if i == 4 else ''}\n" for i in range(1, 12)
        ),
    ),
    Case("yaml-merge", f"a:\n  <<: 5 {HERE}\n"),
    Case("yaml-key", f"a: 1\n? [x] {HERE}\n: 2\n"),
    Case("yaml-duplicate-key", f"a: 1\na: 2 {HERE}\n"),
]

SHAPE_CASES = [
    edit("unknown-key", (VERSION, f"{VERSION}\nservice: {{}} {HERE}")),
    edit("unknown-key", ("    command:", f"    depends_on: [db] {HERE}\n    command:")),
    edit("unknown-key", ("    command:", f"    healthcheck: {HERE}\n    command:")),
    edit("unknown-key", ("        proto: TCP", f"        protocol: TCP {HERE}")),
    edit("unknown-key", ("          read_timeout", f"          proxy: {{}} {HERE}\n          read_timeout")),
    edit("missing-key", (f"    image: {IMAGE}\n", ""), ("  llm:\n    command", f"  llm: {HERE}\n    command")),
    edit("missing-key", (f"      {PORT}\n        as: 80", f"      - as: 80 {HERE}")),
    edit("missing-key", ("        memory:\n          size: 16Gi\n", ""), ("resources:", f"resources: {HERE}")),
    edit("missing-key", ("        llm:\n          denom: uact\n", f"        llm: {HERE}\n")),
    edit(
        "missing-key",
        ("      count: 1\n", ""),
        ("    akash:\n      profile", f"    akash: {HERE}\n      profile"),
    ),
    edit("wrong-type", ("    command: [serve]", f"    command: serve {HERE}")),
    edit("wrong-type", ("- MODEL=tiny", f"- 5 {HERE}")),
    edit("wrong-type", ("- MODEL=tiny", f"- MODEL: tiny {HERE}")),
    edit("wrong-type", (PORT, f'- port: "8000" {HERE}')),
    edit("wrong-type", ("- global: true", f'- global: "yes" {HERE}')),
    edit("wrong-type", ("          readOnly: false", f"          readOnly: 1 {HERE}")),
    edit("wrong-type", ("persistent: true", f"persistent: maybe {HERE}"), missed=True),
    edit("wrong-type", ("amount: 1000", f"amount: [1] {HERE}")),
    edit("wrong-type", ("count: 1", f"count: one {HERE}")),
    edit("wrong-type", (PARAMS, f"    dependencies: {HERE}\n{PARAMS}")),
    edit("wrong-type", ("storage: {size: 1Gi}", f"storage: [] {HERE}"), base=MINIMAL, missed=True),
    edit("version", (VERSION, f"version: 2.0 {HERE}")),
    edit("version", (VERSION, f'version: "2.2" {HERE}')),
    edit("version", (VERSION, f'version: "1.0" {HERE}')),
    Case(
        "services-empty",
        f"{VERSION}\nservices: {{}} {HERE}\nprofiles: {{compute: {{}}, placement: {{}}}}\ndeployment: {{}}\n",
        missed=True,
    ),
]

SERVICE_CASES = [
    edit(
        "service-name",
        ("  llm:\n    image", f"  My_Svc: {HERE}\n    image"),
        ("deployment:\n  llm", "deployment:\n  My_Svc"),
        missed=True,
    ),
    edit("service-not-deployed", SERVICE_HERE, ("deployment:\n  llm:", "deployment:\n  other:")),
    edit("image", (IMAGE, f'"" {HERE}')),
    edit("image", (IMAGE, f"Example/LLM:1 {HERE}"), missed=True),
    edit("image", (IMAGE, f"a b {HERE}"), missed=True),
    edit("image-tag", (IMAGE, f"example/llm {HERE}")),
    edit("image-tag", (IMAGE, f"example/llm:latest {HERE}")),
    edit("image-digest", (IMAGE, f"localhost:5000/example/llm:1.0 {HERE}")),
    edit("env-name", ("MODEL=tiny", f'"1BAD NAME=x" {HERE}'), missed=True),
    edit("env-name", ("MODEL=tiny", f'"=x" {HERE}'), missed=True),
    edit("env-duplicate", ("- API_KEY=", f"- MODEL=x {HERE}\n      - API_KEY=")),
    edit("env-secret", ("API_KEY=${API_KEY}", f"API_KEY=hunter2 {HERE}")),
    edit("env-secret", ("API_KEY=${API_KEY}", f"HF_TOKEN=hf_abc {HERE}")),
    edit("env-dollar", ("MODEL=tiny", f"MODEL=$(API_KEY) {HERE}")),
    edit("env-dollar", ("MODEL=tiny", f"MODEL=a$$b {HERE}")),
    edit("credentials", ("password: ${REGISTRY_PASSWORD}", f"password: short {HERE}")),
    edit("credentials", ("username: reader", f'username: " " {HERE}'), missed=True),
    edit("credentials", ("username: reader", f"username: reader\n      email: a@b {HERE}")),
    edit("credentials-plain", ("password: ${REGISTRY_PASSWORD}", f"password: hunter22 {HERE}")),
    edit("permissions", (PARAMS, f"{PARAMS}      permissions: {{read: [all]}} {HERE}\n")),
    edit("newer-key", (PARAMS, f"{PARAMS}      permissions: {{read: [events]}} {HERE}\n")),
    edit(
        "newer-key",
        ("          read_timeout", f"          proxy_buffer_size: 1 {HERE}\n          read_timeout"),
    ),
    edit("newer-key", (VERSION, f"{VERSION}\nreclamation: {{min_window: 24h}} {HERE}")),
    edit("tee", (PARAMS, f"{PARAMS}      tee: tdx {HERE}\n")),
    edit("tee", ("    expose:\n", f"    params: {{tee: cpu-gpu}} {HERE}\n    expose:\n"), base=MINIMAL),
    edit(
        "tee",
        ("  api:\n", "  api:\n    params: {tee: cpu}\n"),
        ("  db:\n", f"  db:\n    params: {{tee: cpu-gpu}} {HERE}\n"),
        (
            "storage: [{size: 1Gi}]",
            "storage: [{size: 1Gi}]\n        gpu: {units: 1, attributes: {vendor: {nvidia: }}}",
        ),
        base=LEASED_IP,
    ),
    edit("no-effect", (PARAMS, f"    dependencies: [{{service: db}}] {HERE}\n{PARAMS}")),
    edit("no-effect", (VERSION, f"{VERSION}\ninclude: [other.yaml] {HERE}")),
    edit("mount-unknown", ("        data:\n          mount", f"        date: {HERE}\n          mount")),
    edit("mount-path", ("mount: /data", f"mount: data {HERE}")),
    edit("mount-path", ("        data:\n          mount: /data\n", f"        data: {HERE}\n")),
    edit("mount-duplicate", ("mount: /dev/shm", f"mount: /data {HERE}")),
    edit(
        "mount-missing",
        SERVICE_HERE,
        ("        data:\n          mount: /data\n          readOnly: false\n", ""),
    ),
    edit("mount-ephemeral", (NVME, ""), ("        data:", f"        data: {HERE}"), missed=True),
    edit(
        "mount-readonly-ram",
        ('"2.0"', '"2.1"'),
        (
            "        shm:\n          mount: /dev/shm",
            f"        shm: {HERE}\n          mount: /dev/shm\n          readOnly: true",
        ),
        missed=True,
    ),
    edit("shm", SERVICE_HERE, ("example/llm", "vllm/vllm-openai"), ("/dev/shm", "/shm")),
]

EXPOSE_CASES = [
    edit("port", (PORT, f"- port: 0 {HERE}")),
    edit("port", ("as: 80", f"as: 70000 {HERE}")),
    edit("proto", ("proto: TCP", f"proto: HTTP {HERE}")),
    edit("accept", ("[llm.example.org]", f'["bad host"] {HERE}'), missed=True),
    edit("accept", ("[llm.example.org]", f'["UPPER.example"] {HERE}'), missed=True),
    edit("accept", ("[llm.example.org]", f"[a.example, a.example] {HERE}"), missed=True),
    edit("http-limit", ("max_body_size: 104857600", f"max_body_size: 1073741824 {HERE}")),
    edit("http-limit", ("read_timeout: 60000", f"read_timeout: 600000 {HERE}")),
    edit("http-next-cases", (OFF, f'          next_cases: ["off", error] {HERE}\n')),
    edit("http-next-cases", (OFF, f"          next_cases: [500] {HERE}\n")),
    edit("http-next-cases", (OFF, f"          next_cases: [sometimes] {HERE}\n")),
    edit("global-none", SERVICES_HERE, ("- global: true", "- service: llm"), missed=True),
    edit(
        "global-none",
        SERVICES_HERE,
        (MINIMAL[MINIMAL.index("    expose:") : MINIMAL.index("profiles:")], ""),
        base=MINIMAL,
        missed=True,
    ),
    edit("expose-to", PORT_HERE, (WORLD, "")),
    edit("expose-to", ("- global: true", f"- {{}} {HERE}")),
    edit("expose-service", ("- global: true", f"- global: true\n          - service: nobody {HERE}")),
    edit("ingress-none", SERVICES_HERE, ("        as: 80\n", "")),
    edit(
        "ingress-many",
        ("- port: 5432\n        to: [{service: api}]", f"- port: 80 {HERE}\n        to: [{{global: true}}]"),
        base=LEASED_IP,
    ),
    edit("http-defaults", PORT_HERE, ("          max_body_size: 104857600\n", "")),
    edit("http-retries", PORT_HERE, (OFF, "")),
    edit("ip-global", (FIRST, f"to: [{{ip: first-ip}}] {HERE}"), base=LEASED_IP),
    edit("endpoint-unknown", (FIRST, f"to: [{{global: true, ip: other-ip}}] {HERE}"), base=LEASED_IP),
    edit("endpoint-name", ("  first-ip: {kind: ip}", f"  First: {{kind: ip}} {HERE}"), base=LEASED_IP),
    edit("endpoint-kind", ("{kind: ip}", f"{{kind: name}} {HERE}"), base=LEASED_IP),
    edit("endpoint-unused", ("endpoints:\n", f"endpoints:\n  other-ip: {{kind: ip}} {HERE}\n"), base=LEASED_IP),
    edit(
        "ip-port-taken",
        (f"        proto: udp\n        {FIRST}", f"        as: 80\n        {FIRST} {HERE}"),
        base=LEASED_IP,
    ),
]

COMPUTE_CASES = [
    edit("cpu", ("units: 4", f"units: 0.001 {HERE}"), missed=True),
    edit("cpu", ("units: 4", f"units: 400 {HERE}"), missed=True),
    edit("cpu", ("units: 4", f"units: four {HERE}")),
    edit("cpu", ("units: 4", f"units: -1 {HERE}")),
    edit("cpu-attribute", ("arch: amd64", f"vendor: amd {HERE}"), missed=True),
    edit("cpu-attribute", ("arch: amd64", f"arch: sparc {HERE}"), missed=True),
    edit("size", ("size: 16Gi", f"size: 16GB {HERE}"), missed=True),
    edit("size", ("size: 16Gi", f"size: 16gi {HERE}"), missed=True),
    edit("size", ("size: 16Gi", f"size: 17179869184 {HERE}")),
    edit("size", ("size: 16Gi", f"size: 16G {HERE}"), missed=True),
    edit("memory", ("size: 16Gi", f"size: 1Ki {HERE}"), missed=True),
    edit("memory", ("size: 16Gi", f"size: 3Ti {HERE}"), missed=True),
    edit("storage", ("size: 8Gi", f"size: 1Mi {HERE}"), missed=True),
    edit("storage", ("size: 100Gi", f"size: 33Ti {HERE}"), missed=True),
    edit("storage-name", ("- name: data\n", f"- name: shm {HERE}\n")),
    edit(
        "storage-name",
        ("storage: {size: 1Gi}", f"storage:\n          - {{size: 1Gi}}\n          - {{size: 2Gi}} {HERE}"),
        base=MINIMAL,
        missed=True,
    ),
    edit(
        "storage-count",
        ("{size: 1Gi}", f"[{', '.join(f'{{name: v{i}, size: {i}Gi}}' for i in range(1, 6))}] {HERE}"),
        base=MINIMAL,
        missed=True,
    ),
    edit("storage-attributes", (NVME, f"            attributes: {{persistent: true}} {HERE}\n"), missed=True),
    edit("storage-class", ("class: beta3", f"class: nvme {HERE}"), missed=True),
    edit("storage-persistent", (RAM, f"            attributes: {{class: ram, persistent: true}} {HERE}\n")),
    edit(
        "storage-persistent",
        (NVME, f"            attributes: {{class: beta3, persistent: false}} {HERE}\n"),
        missed=True,
    ),
    edit("storage-order", ("size: 10Gi", "size: 200Gi"), ("- name: data", f"- name: data {HERE}")),
    edit(
        "storage-ephemeral",
        (
            "        storage:\n          -",
            f"        storage: {HERE}\n          - {{name: a, size: 7Gi}}\n          -",
        ),
    ),
    edit("gpu-units", ("units: 2", f"units: 25 {HERE}"), missed=True),
    edit("gpu-units", ("units: 2", f"units: 0.5 {HERE}"), missed=True),
    edit("gpu-attributes", ("gpu:\n          units: 2", f"gpu: {HERE}\n          units: 0")),
    edit(
        "gpu-attributes",
        ("cpu: {units: 500m}", f"gpu: {{units: 1}} {HERE}\n        cpu: {{units: 500m}}"),
        base=MINIMAL,
    ),
    edit(
        "gpu-vendor",
        ("vendor:\n              nvidia:", f"vendor:\n              nvidia: []\n              amd: {HERE}"),
    ),
    edit("gpu-model", ("- model: a100", f"- model: A 100 {HERE}"), missed=True),
    edit("gpu-model", ("- model: a100\n                  ram: 80Gi", f"- ram: 80Gi {HERE}"), missed=True),
    edit("gpu-ram", ("ram: 80Gi", f"ram: 80GB {HERE}"), missed=True),
    edit("gpu-interface", ("interface: sxm", f"interface: sxm5 {HERE}")),
    edit("gpu-duplicate", (H100, f"                - {{model: a100, ram: 80Gi}} {HERE}\n"), missed=True),
    edit("gpu-model-repeat", (H100, f"                - {{model: a100, ram: 90Gi}} {HERE}\n")),
    edit("gpu-order", ("- model: h100", f"- model: a10 {HERE}")),
    edit(
        "gpu-any",
        (
            "cpu: {units: 500m}",
            f"gpu: {{units: 1, attributes: {{vendor: {{nvidia: null}}}}}} {HERE}\n        cpu: {{units: 1}}",
        ),
        base=MINIMAL,
    ),
]

PLACEMENT_CASES = [
    edit("attribute", ("attributes:\n        location-region: na-us-west\n", f"attributes: {HERE}\n")),
    edit("attribute", ("location-region: na-us-west", f"location-region: {{a: b}} {HERE}"), missed=True),
    edit("attribute", ("location-region: na-us-west", f"9lives: yes {HERE}"), missed=True),
    edit("signed-by", ("anyOf: [", f"anyOf: null {HERE}\n        allOf: [")),
    edit("signed-by-none", ("signedBy:", "# signedBy:"), ("    akash:", f"    akash: {HERE}"), base=MINIMAL),
    edit("signed-by-address", ("akash1365yvmc4s7awdyj3n2sav7xfx76adc6dnmlx63]", f"akash1bad] {HERE}")),
    edit("denom", ("denom: uact", f"denom: uakt {HERE}"), missed=True),
    edit("denom", ("denom: uact", f"denom: usd {HERE}")),
    edit("price", ("amount: 1000", f"amount: 0 {HERE}"), missed=True),
    edit("price", ("amount: 1000", f"amount: 10000001 {HERE}"), missed=True),
    edit("price", ("amount: 1000", f"amount: -5 {HERE}")),
    edit("price", ("amount: 1000", f"amount: .inf {HERE}"), missed=True),
    edit("price", ("amount: 1000", f'amount: "ten" {HERE}')),
    edit("price-high", ("amount: 1000", f"amount: 1000000 {HERE}")),
    edit("count", ("count: 1", f"count: 0 {HERE}")),
    edit(
        "deploy-service",
        ("deployment:\n", f"deployment:\n  two: {{akash: {{profile: llm, count: 1}}}} {HERE}\n"),
    ),
    edit("deploy-placement", ("    akash:\n      profile", f"    mars: {HERE}\n      profile")),
    edit(
        "deploy-placement",
        ("  llm:\n    akash:\n      profile: llm\n      count: 1\n", f"  llm: {{}} {HERE}\n"),
    ),
    edit(
        "deploy-profile",
        ("web: {akash: {profile: web, count: 2}}", f"web: {{akash: {{profile: big, count: 2}}}} {HERE}"),
        base=MINIMAL,
    ),
    edit(
        "deploy-pricing",
        ("        web: {denom", "        big: {denom"),
        ("count: 2}}", f"count: 2}}}} {HERE}"),
        base=MINIMAL,
    ),
    edit("deploy-total", ("deployment:", f"deployment: {HERE}"), ("count: 1", "count: 700"), missed=True),
    edit("reclamation", (VERSION, f"{VERSION}\nreclamation: {{min_window: 24d}} {HERE}")),
    edit("reclamation", (VERSION, f"{VERSION}\nreclamation: {{min_window: 9999h}} {HERE}")),
    edit("unused", ("  placement:\n", f"  placement:\n    spare: {{pricing: {{}}}} {HERE}\n")),
    edit(
        "profile-shared",
        ('"2.1"', '"2.0"'),
        ("  db: {akash: {profile: small, count: 2}}", f"  db: {{akash: {{profile: small, count: 2}}}} {HERE}"),
        base=LEASED_IP,
    ),
]

CASES = [*YAML_CASES, *SHAPE_CASES, *SERVICE_CASES, *EXPOSE_CASES, *COMPUTE_CASES, *PLACEMENT_CASES]
