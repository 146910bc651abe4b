"""HAProxy and nginx in front of a node, as careful people configure them: what Spawn's reading is compared with.

Both are Debian's, with one thread and everything below the test's directory. Nothing that loosens their parsers is
switched on; their limits are raised to Spawn's, so that a size is never what they differ about.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.support.processes import Processes, free_port, wait_listening

HAPROXY = """
global
    nbthread 1
    tune.bufsize 131072
    tune.http.maxhdr 128
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    option abortonclose
    timeout http-request 30s
    timeout server 30s
frontend clients
    bind 127.0.0.1:%(port)d
    http-request set-header X-Forwarded-For %%[src]
    default_backend nodes
backend nodes
    http-reuse never
    server node 127.0.0.1:%(node_port)d
"""
NGINX = """
daemon off; master_process off; pid %(directory)s/nginx.pid; error_log stderr crit;
events { worker_connections 2048; }
http {
  access_log off; client_max_body_size 0; large_client_header_buffers 8 64k;
  client_body_temp_path %(directory)s/body; proxy_temp_path %(directory)s/proxy;
  fastcgi_temp_path %(directory)s/fastcgi; uwsgi_temp_path %(directory)s/uwsgi; scgi_temp_path %(directory)s/scgi;
  server {
    listen 127.0.0.1:%(port)d backlog=1024;
    location / {
      proxy_pass http://127.0.0.1:%(node_port)d;
      proxy_http_version 1.1; proxy_ignore_client_abort on;
      proxy_set_header Host $http_host; proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
    }
  }
}
"""


def start_haproxy(processes: Processes, node_port: int) -> int:
    """HAProxy in front of a node; returns its port."""
    return _start(processes, "haproxy", HAPROXY, lambda path: ["haproxy", "-db", "-f", path], node_port)


def start_nginx(processes: Processes, node_port: int) -> int:
    """nginx in front of a node; returns its port."""
    return _start(processes, "nginx", NGINX, lambda path: ["nginx", "-e", "stderr", "-c", path], node_port)


def _start(
    processes: Processes, name: str, configuration: str, command: Callable[[str], list[str]], node_port: int
) -> int:
    port, path = free_port(), processes.directory / f"{name}.conf"
    values = {"port": port, "node_port": node_port, "directory": processes.directory}
    path.write_text(configuration % values, "utf-8")
    process = processes.add(name, command(str(path)))
    process.start()
    wait_listening(port, process=process)
    return port
