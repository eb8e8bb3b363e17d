#!/bin/sh
# Record tls/: a certificate of 127.0.0.1 and localhost for tests, signed by itself, with the key that belongs to it, and one more pair.
#
# usage: testdata/record_tls.sh        (needs: openssl 3)
set -eu
cd "$(dirname "$0")/tls"
for name in first second; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj "/CN=herd test $name" \
        -addext "subjectAltName=IP:127.0.0.1,DNS:localhost" -addext "basicConstraints=critical,CA:FALSE" \
        -keyout "$name.key" -out "$name.pem" 2>/dev/null
done
