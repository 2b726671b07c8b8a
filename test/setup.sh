# Set-up that test/run, demo/run and bench/run share.  To be sourced by bash.
#
# Everything happens in a private folder: a copy of the tree to build in, and a
# copy of the installed PostgreSQL to install into.  So the system is left as
# it is but for the packages, and runs side by side do not meet.

set -u
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '== %s\n' "$*"; }
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# Leave in $server_config the pg_config of the PostgreSQL to build for: the one
# of PG_CONFIG or PG_MAJOR if that is set, else the one in PATH, else the newest
# of Debian's.  Needs its server and what extensions are built with.
server_config=''
find_server() {
	local candidate candidates bin=/usr/lib/postgresql
	[ -z "$server_config" ] || return 0
	if [ -n "${PG_CONFIG:-}" ]; then
		candidates=("$PG_CONFIG")
	elif [ -n "${PG_MAJOR:-}" ]; then
		candidates=($bin/"$PG_MAJOR"/bin/pg_config)
	else
		candidates=(pg_config $bin/{18,17,16,15}/bin/pg_config)
	fi
	for candidate in "${candidates[@]}"; do
		bin=$("$candidate" --bindir 2>/dev/null) &&
			[ -x "$bin/postgres" ] && [ -e "$("$candidate" --pgxs)" ] &&
			[ -e "$("$candidate" --includedir-server)/postgres.h" ] &&
			server_config=$bin/pg_config && return 0
	done
	return 1
}

# Install the Debian packages that are missing.  Runs side by side wait for each
# other here: apt-get does so for dpkg's lock, but not for that of its lists.
apt_updated=''
need_packages() {
	local missing=() package root=() log
	for package in "$@"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null |
			grep -q 'ok installed' || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null ||
		die "needs what Debian has in these packages: ${missing[*]}"
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null ||
			die "needs sudo, or root, to install packages: ${missing[*]}"
		root=(sudo)
	fi
	say "installing packages: ${missing[*]}"
	local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get
		-q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3
		-o Dpkg::Use-Pty=0)
	log=$({ flock -w 600 9 &&
		{ [ -n "$apt_updated" ] || "${apt[@]}" update 9<&-; } &&
		"${apt[@]}" install --no-install-recommends "${missing[@]}" 9<&-; } \
		9<"$(command -v apt-get)" 2>&1 </dev/null) || {
		tail -30 <<<"$log" >&2
		die 'could not install the packages'
	}
	apt_updated=yes
}

# The newest major version of PostgreSQL that kappa supports and Debian has.
debian_major() {
	local version
	for version in ${PG_MAJOR:-18 17 16 15}; do
		apt-cache show "postgresql-server-dev-$version" >/dev/null 2>&1 &&
			echo "$version" && return
	done
	die 'Debian has no PostgreSQL from 15 to 18 here'
}

need_build_packages() {
	local major
	need_packages gcc g++ make pkg-config librdkafka-dev libsimdjson-dev
	# Any supported server will do; if there is none, Debian's.
	find_server || {
		major=$(debian_major) || exit 1
		need_packages "postgresql-$major" "postgresql-server-dev-$major"
	}
	find_server || die 'no PostgreSQL 15 or later with its headers was found'
}

# Print the clang to fuzz with, one that has libFuzzer.
find_clang() {
	local clang
	for clang in clang $(compgen -c clang- | grep -E '^clang-[0-9]+$' | sort -rVu); do
		[ ! -e "$("$clang" -print-runtime-dir 2>/dev/null)/libclang_rt.fuzzer_no_main-$(uname -m).a" ] ||
			{ echo "$clang" && return; }
	done
	return 1
}

# PostgreSQL's headers bring clang, but not the libraries for it.
need_clang() {
	local version
	find_clang >/dev/null && return
	version=$(apt-cache depends clang 2>/dev/null |
		sed -n 's/^ *Depends: clang-\([0-9]*\)$/\1/p')
	[ -n "$version" ] || return 1
	need_packages "clang-$version" "libclang-rt-$version-dev"
	find_clang >/dev/null
}

# Bring Kafka's jars, once, to a folder whose name is left in $jars.
need_kafka() {
	jars=${KAPPA_KAFKA_LIB:-$top/.cache/kafka}
	command -v java >/dev/null || need_packages default-jre-headless
	if [ -e "$jars/.complete" ] || [ -n "${KAPPA_KAFKA_LIB:-}" ]; then
		return
	fi
	need_packages maven
	say 'fetching Apache Kafka'
	mkdir -p "$top/.cache"
	(
		flock 9
		[ ! -e "$jars/.complete" ] || exit 0
		for attempt in 1 2 3; do
			rm -rf "$jars"
			log=$(MAVEN_OPTS=-XX:-UsePerfData timeout 300 mvn -q -B -f "$top/test/broker/pom.xml" \
				dependency:copy-dependencies -DincludeScope=runtime \
				-DoutputDirectory="$jars" 2>&1 </dev/null) &&
				touch "$jars/.complete" && exit 0
			[ $? -ne 124 ] || log+='Maven was not done after 300 s'
		done
		tail -30 <<<"$log" >&2
		exit 1
	) 9>"$top/.cache/lock" || die 'could not fetch Apache Kafka from Maven Central; KAPPA_KAFKA_LIB may name a folder that has its jars'
}

# Make a private folder $work with a copy of the tree in $work/src, owned by
# the user who is going to run the server: postgres, if we are root.  It goes
# when the script ends, unless $keep is set.
make_work_folder() {
	work=$(mktemp -d "${TMPDIR:-/tmp}/kappa-$1.XXXXXX") || exit 1
	trap leave_work_folder EXIT
	mkdir "$work/src"
	tar -C "$top" -cf - --exclude=./.git --exclude=./.cache --exclude='*.o' \
		--exclude='*.so' --exclude=./test/broker/build --exclude='./tmp_check*' \
		--exclude='./output_iso' . | tar -C "$work/src" -xf - || exit 1
	as_user=()
	if [ "$(id -u)" = 0 ]; then
		chown -R postgres: "$work"
		as_user=(setpriv --reuid=postgres --regid=postgres --init-groups --)
	fi
}

leave_work_folder() {
	trap '' INT TERM HUP
	if [ -n "${keep:-}" ]; then
		say "kept: $work" >&2
	else
		rm -rf "$work"
	fi
}

# Run a script of the copied tree as the user of the server, and hand on its
# exit status.  Signals that we get reach it as SIGTERM: a background job is
# started with SIGINT ignored.
run_in_work_folder() {
	local script=$1 child status
	shift
	(cd "$work" && exec "${as_user[@]}" env HOME="$work" TMPDIR="$work" \
		LANG=C.UTF-8 LC_ALL=C.UTF-8 bash "$work/src/$script" "$@") <&0 &
	child=$!
	trap 'kill -TERM $child 2>/dev/null' INT TERM HUP
	while :; do
		wait $child
		status=$?
		kill -0 $child 2>/dev/null || break
	done
	trap - INT TERM HUP
	return $status
}

# Lay the server out anew under $1, where kappa can be installed without
# touching the system: a server finds its files relative to its executable.
# Sets PG_CONFIG and PATH.
make_private_server() {
	local prefix=$1 root bin lib share library
	find_server || die 'no PostgreSQL was found'
	bin=$("$server_config" --bindir)
	lib=$("$server_config" --pkglibdir)
	share=$("$server_config" --sharedir)
	case $bin in
		/usr/lib/postgresql/*) root=/usr ;;
		*) root=$(dirname "$bin") ;;
	esac
	bin=${bin#"$root/"} lib=${lib#"$root/"} share=${share#"$root/"}
	mkdir -p "$prefix/$bin" "$prefix/$lib" "$prefix/$share"
	cp -a "$root/$bin/." "$prefix/$bin"
	cp -rs "$root/$lib/." "$prefix/$lib"
	cp -rs "$root/$share/." "$prefix/$share"
	ln -s "$root/include" "$prefix/include"
	for library in "$root"/lib/*-linux-gnu "$root"/lib/libpq.so*; do
		[ ! -e "$library" ] || ln -sf "$library" "$prefix/lib/"
	done
	rm -f "$prefix/$lib/kappa.so" "$prefix/$share/extension/kappa"[.-]*
	export PG_CONFIG=$prefix/$bin/pg_config
	export PATH=$prefix/$bin:$PATH
	[ "$("$PG_CONFIG" --sharedir)" = "$prefix/$share" ] ||
		die "the server of $server_config cannot be relocated"
}

# Stop servers whose data is under a folder and that something left running,
# by the pids in their own files.
stop_servers_under() {
	local file pid
	find "$1" -name postmaster.pid 2>/dev/null | while read -r file; do
		pid=$(head -1 "$file")
		if [ "$(readlink "/proc/$pid/cwd")" = "$(dirname "$file")" ]; then
			kill -QUIT "$pid" && tail --pid="$pid" -f /dev/null
		fi
	done
}
