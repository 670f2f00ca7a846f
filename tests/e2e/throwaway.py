"""A machine to throw away: this system's files under an overlay, systemd as its first process, in namespaces of its own.
What is installed, started or broken there is gone with it. For root, where cgroup 2 can be mounted."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from harness import temporary_folder, wait_until

SYSTEMD = next((path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if os.path.exists(path)), None)

# $1: an empty folder, $2: a folder that is seen at /mnt, $3: a name for the cgroup. The first process, in all namespaces
# but that of cgroups.
BOOT = r"""
set -e
B=$1 R=$1/root
mount -t tmpfs tmpfs "$B"
mkdir "$B/up" "$B/work" "$R" "$B/cgroup"
mount -t cgroup2 cgroup2 "$B/cgroup"
mkdir "$B/cgroup/$3"
echo $$ >"$B/cgroup/$3/cgroup.procs"
umount "$B/cgroup"
mount -t overlay overlay -o "lowerdir=/,upperdir=$B/up,workdir=$B/work" "$R"
mount -t proc proc "$R/proc"
mount --bind "$R/proc/sys" "$R/proc/sys"
mount -o remount,bind,ro "$R/proc/sys"
mount -t sysfs -o ro sysfs "$R/sys"
mount -t tmpfs tmpfs "$R/run"
mount -t tmpfs tmpfs "$R/tmp"
mount --bind /dev "$R/dev"
mount -o remount,bind,ro "$R/dev"
mount -t tmpfs tmpfs "$R/dev/shm"
mount -t devpts devpts "$R/dev/pts"
mount --bind "$2" "$R/mnt"
# systemd alone, without what a real machine starts: nothing here shall reach this one's hardware or settings.
rm -rf "$R"/lib/systemd/system/*.target.wants "$R"/etc/systemd/system/*.wants "$R"/lib/systemd/system-generators
rm -f "$R/usr/sbin/policy-rc.d"
cd "$R"
mkdir -p .old
pivot_root . .old
umount -l /.old
exec unshare -C sh -c 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec env -i container=mik \
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  "$0" --system --unit=basic.target --log-target=null --show-status=no' "$4"
"""


class Unavailable(Exception):
    pass


class Machine:
    def __init__(self, shared):
        if os.geteuid() != 0 or SYSTEMD is None or shutil.which("nsenter") is None:
            raise Unavailable("needs root, systemd and nsenter")
        self.folder = temporary_folder()
        self.cgroup = Path(self.folder).name
        self.process = subprocess.Popen(
            ["unshare", "-mpfnui", "--kill-child", "--propagation", "private", "sh", "-c", BOOT, "boot", self.folder,
             str(shared), self.cgroup, SYSTEMD],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        try:
            wait_until(self._up, 30, "a start of systemd")
        except BaseException:
            self.close()
            raise

    def _first(self):
        """The pid of its first process, here; 0 before there is one."""
        try:
            pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            return int(pids[0]) if pids and Path(f"/proc/{pids[0]}/comm").read_text() == "systemd\n" else 0
        except OSError:
            return 0

    def _up(self):
        if self.process.poll() is not None:
            raise Unavailable(self.process.stderr.read().decode(errors="replace").strip())
        return self._first() and self.run("systemctl", "is-active", "basic.target").stdout == "active\n"

    def run(self, *command, seconds=100, check=False):
        done = subprocess.run(["nsenter", "-t", str(self._first()), "-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w",
                               "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", *command],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds)
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: {done.returncode}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        return done

    def sh(self, script):
        return self.run("sh", "-ec", script, check=True).stdout

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)  # its child goes with it, and all in that namespace
        self.process.wait(20)
        self.process.stderr.close()
        subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-c",
                        'mount -t cgroup2 cgroup2 "$1" && for i in 1 2 3 4 5; do '
                        '[ ! -d "$1/$2" ] || find "$1/$2" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.2; done',
                        "sh", self.folder, self.cgroup], stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
