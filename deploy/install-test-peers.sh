#!/bin/sh
# Install the real peers that the tests talk to: Orthanc (an archive), DCMTK (command-line DICOM) and
# rsyslog with TLS (a collector of audit messages).
#
# Exit 0: both are there. Exit 3: something is missing and may not be installed from here; what to do
# is printed, and the tests that need it will say that they did not run.
# Run again at any time: what is there is left alone.
set -u

POLICY=/usr/sbin/policy-rc.d

missing() {
    # Orthanc lives where an ordinary user's path does not reach.
    if ! PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v Orthanc >/dev/null 2>&1; then
        printf 'orthanc '
    fi
    if ! PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v rsyslogd >/dev/null 2>&1; then
        printf 'rsyslog '
    fi
    if ! find /usr/lib /usr/local/lib -name lmnsd_gtls.so 2>/dev/null | grep -q .; then
        printf 'rsyslog-gnutls '
    fi
    if [ ! -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ]; then
        printf 'orthanc-dicomweb '
    fi
    # By full path: pynetdicom puts commands of the same names into a virtual environment.
    for folder in /usr/bin /usr/local/bin /opt/homebrew/bin; do
        if [ -x "$folder/storescu" ] && [ -x "$folder/storescp" ] && [ -x "$folder/dcmsend" ]; then
            return
        fi
    done
    printf 'dcmtk '
}

say_how() {
    cat >&2 <<WORDS
Missing for the tests with real peers: $1
  Debian, Ubuntu:  apt-get install orthanc orthanc-dicomweb dcmtk rsyslog rsyslog-gnutls     (as root)
  Fedora:          dnf install dcmtk rsyslog rsyslog-gnutls                 (as root)
  macOS:           brew install dcmtk
  Where the system has no package of Orthanc: the builds that its makers offer.
A C compiler (gcc) is useful as well: with it the peers listen on this machine only.
Without them everything else is tested; the tests marked "peers" say that they did not run.
WORDS
    exit 3
}

wanted=$(missing)
if [ -z "$wanted" ]; then
    echo "Orthanc, DCMTK and rsyslog are installed."
    exit 0
fi

command -v apt-get >/dev/null 2>&1 || say_how "$wanted"
if [ "$(id -u)" -eq 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    say_how "$wanted"
fi

# The packages start their services when they are installed, and Orthanc's listens to the network.
# policy-rc.d forbids it while we install; whatever stood there before comes back, whatever happens.
saved="$POLICY.emode-saved"
mark="# emode: forbids services while the test peers are installed"
restore() {
    if grep -qs "$mark" "$POLICY"; then
        $as_root rm -f "$POLICY"
    fi
    if [ -e "$saved" ] || [ -L "$saved" ]; then
        $as_root mv "$saved" "$POLICY"
    fi
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

restore # a run that was killed may have left its own behind
if [ -e "$POLICY" ] || [ -L "$POLICY" ]; then
    $as_root mv "$POLICY" "$saved" || say_how "$wanted"
fi
printf '#!/bin/sh\n%s\nexit 101\n' "$mark" | $as_root tee "$POLICY" >/dev/null || say_how "$wanted"
$as_root chmod 755 "$POLICY" || say_how "$wanted"

install() {
    # shellcheck disable=SC2086  # several packages in one word list
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $wanted
}

echo "Installing: $wanted"
# The package lists of a fresh machine are empty or old.
if ! install >/dev/null 2>&1; then
    $as_root apt-get update -q >/dev/null 2>&1
    install || say_how "$wanted"
fi

wanted=$(missing)
[ -z "$wanted" ] || say_how "$wanted"
echo "Orthanc, DCMTK and rsyslog are installed; no service was started."
