"""The database behind ``sacct``, and the accounts in it. Runs inside the head.

The database asks nobody for a password: it listens only within the cluster's own network.
"""

from __future__ import annotations

import subprocess

from .conf_files import DATABASE_PORT
from .errors import MiniClusterError
from .programs import Daemon, daemon_environment
from .settings import INSIDE, Settings

ACCOUNT = "team"
QOS = "lowq"
_DATA = INSIDE / "mysql"
_SMALL = ["--innodb-log-file-size=8M", "--skip-log-bin", "--skip-name-resolve"]


def start_database(settings: Settings) -> Daemon:
    """Make an empty database and serve it: one shell, so that the rest of the cluster can start meanwhile."""
    options = ["--no-defaults", f"--user={settings.user}", f"--datadir={_DATA}", *_SMALL]
    make = ["mariadb-install-db", *options, "--skip-test-db", "--auth-root-authentication-method=normal"]
    serve = [
        "mariadbd",
        *options,
        "--skip-grant-tables",
        "--bind-address=127.0.0.1",
        f"--port={DATABASE_PORT}",
        f"--socket={INSIDE}/run/mysql.sock",
        f"--pid-file={INSIDE}/run/mysql.pid",
        "--innodb-buffer-pool-size=64M",
        "--innodb-lock-wait-timeout=900",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-use-native-aio=0",
        "--performance-schema=0",
    ]
    # "$0" is how many words the first command has.
    script = '"${@:1:$0}" && exec "${@:$0+1}"'
    return Daemon.start("mariadbd", settings.as_user(["bash", "-c", script, str(len(make)), *make, *serve]))


def add_accounts(settings: Settings) -> None:
    """Give whoever runs the cluster a default account and two QOS, so that others can be refused."""
    user = settings.user
    orders = [
        "add cluster mini",
        f"add qos {QOS}",
        f"add account {ACCOUNT} cluster=mini",
        f"add user {user} account={ACCOUNT} qos=normal,{QOS}",
        f"modify user {user} set defaultaccount={ACCOUNT}",
    ]
    result = subprocess.run(
        settings.as_user(["sacctmgr", "--immediate", "--quiet"]),
        input="\n".join(orders) + "\n",
        env=daemon_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    # In a session, one failure does not fail the whole.
    if result.returncode or result.stderr.strip():
        raise MiniClusterError(f"sacctmgr: {result.stderr.strip() or result.stdout.strip()}")
