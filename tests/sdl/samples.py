"""SDLs to break: one that nobody can complain about, and one with every section."""

from __future__ import annotations

DIGEST = "@sha256:" + "0123456789abcdef" * 4
AUDITOR = "akash1365yvmc4s7awdyj3n2sav7xfx76adc6dnmlx63"

GOOD = f"""\
version: "2.0"
services:
  llm:
    image: example/llm:1.0{DIGEST}
    command: [serve]
    args: ["--port", "8000"]
    env:
      - MODEL=tiny
      - API_KEY=${{API_KEY}}
    credentials:
      host: registry.example
      username: reader
      password: ${{REGISTRY_PASSWORD}}
    expose:
      - port: 8000
        as: 80
        proto: TCP
        accept: [llm.example.org]
        to:
          - global: true
        http_options:
          max_body_size: 104857600
          read_timeout: 60000
          send_timeout: 60000
          next_cases: ["off"]
    params:
      storage:
        data:
          mount: /data
          readOnly: false
        shm:
          mount: /dev/shm
profiles:
  compute:
    llm:
      resources:
        cpu:
          units: 4
          attributes:
            arch: amd64
        memory:
          size: 16Gi
        storage:
          - size: 8Gi
          - name: shm
            size: 10Gi
            attributes:
              class: ram
              persistent: false
          - name: data
            size: 100Gi
            attributes:
              class: beta3
              persistent: true
        gpu:
          units: 2
          attributes:
            vendor:
              nvidia:
                - model: a100
                  ram: 80Gi
                - model: h100
                  ram: 80Gi
                  interface: sxm
  placement:
    akash:
      attributes:
        location-region: na-us-west
      signedBy:
        anyOf: [{AUDITOR}]
      pricing:
        llm:
          denom: uact
          amount: 1000
deployment:
  llm:
    akash:
      profile: llm
      count: 1
"""

MINIMAL = f"""\
version: "2.0"
services:
  web:
    image: example/web:1.0{DIGEST}
    expose:
      - port: 80
        to:
          - global: true
        http_options: {{max_body_size: 1000000, next_cases: ["off"]}}
profiles:
  compute:
    web:
      resources:
        cpu: {{units: 500m}}
        memory: {{size: 512Mi}}
        storage: {{size: 1Gi}}
  placement:
    akash:
      signedBy: {{anyOf: [{AUDITOR}]}}
      pricing:
        web: {{denom: uact, amount: "12.5"}}
deployment:
  web: {{akash: {{profile: web, count: 2}}}}
"""

LEASED_IP = f"""\
version: "2.1"
endpoints:
  first-ip: {{kind: ip}}
services:
  api:
    image: example/api:1.0{DIGEST}
    expose:
      - port: 80
        to: [{{global: true, ip: first-ip}}]
        http_options: {{max_body_size: 1000000, next_cases: ["off"]}}
      - port: 8053
        proto: udp
        to: [{{global: true, ip: first-ip}}]
      - port: 9000
        to: [{{service: db}}]
  db:
    image: example/db:1.0{DIGEST}
    expose:
      - port: 5432
        to: [{{service: api}}]
profiles:
  compute:
    small:
      resources:
        cpu: {{units: 0.5}}
        memory: {{size: 512Mi}}
        storage: [{{size: 1Gi}}]
  placement:
    akash:
      signedBy: {{allOf: [{AUDITOR}]}}
      pricing:
        small: {{denom: uact, amount: 100}}
deployment:
  api: {{akash: {{profile: small, count: 1}}}}
  db: {{akash: {{profile: small, count: 2}}}}
"""
