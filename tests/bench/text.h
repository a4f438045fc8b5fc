/* An offer or an answer as a browser makes it, 1.4 KB, with numbers in it that tell whether it came whole. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char text[4096];
static int text_size, at_id, at_to, at_started, at_again;

static void compose(void) { /* like a browser's, as a JSON string holds it */
    int n = sprintf(text, "v=0\\r\\no=- ");
    at_id = n;
    n += sprintf(text + n, "0000000000000000 2 IN IP4 127.0.0.1\\r\\ns=-\\r\\nt=0 0\\r\\na=x-to:");
    at_to = n;
    n += sprintf(text + n, "0000000000000000\\r\\na=x-started:");
    at_started = n;
    n += sprintf(text + n, "0000000000000000\\r\\na=group:BUNDLE 0\\r\\na=msid-semantic: WMS\\r\\n"
        "m=application 50123 UDP/DTLS/SCTP webrtc-datachannel\\r\\nc=IN IP4 198.51.100.7\\r\\n");
    for (int i = 0; i < 8; i++)
        n += sprintf(text + n, "a=candidate:%u 1 udp %u 2001:db8:%x:%x::%x %d typ %s generation 0 network-id %d\\r\\n",
            1467250027u + i * 104729, 2122197247u - i * 4096, 17 * i + 1, 4711 + i, 990 + i, 49152 + 311 * i,
            i < 5 ? "host" : "srflx raddr :: rport 9", i + 1);
    n += sprintf(text + n, "a=ice-ufrag:k3Jq\\r\\na=ice-pwd:9yNh0mZQ2kq3nW8uVb7Xc1Rt\\r\\na=ice-options:trickle\\r\\na=fingerprint:sha-256 "
        "D1:2C:BE:AD:C4:F6:64:5C:25:16:11:9C:AF:E7:0F:73:79:36:4E:9C:1E:15:54:39:0C:06:8B:ED:96:86:00:39\\r\\n"
        "a=setup:actpass\\r\\na=mid:0\\r\\na=sctp-port:5000\\r\\na=max-message-size:262144\\r\\na=x-end:");
    at_again = n;
    n += sprintf(text + n, "0000000000000000\\r\\n");
    text_size = n;
}

static void hex(char *out, uint64_t value) {
    for (int i = 15; i >= 0; i--, value >>= 4) out[i] = "0123456789abcdef"[value & 15];
}

static int add_text(char *out, uint64_t id, uint64_t to, uint64_t started) {
    memcpy(out, text, text_size);
    hex(out + at_id, id);
    hex(out + at_to, to);
    hex(out + at_started, started);
    hex(out + at_again, id);
    return text_size;
}

static int read_text(const char *in, int size, uint64_t *id, uint64_t *to, uint64_t *started) {
    const char *start = memmem(in, size, "o=- ", 4);
    if (start) start -= at_id - 4;
    if (!start || start < in || start + text_size > in + size || memcmp(start + at_id, start + at_again, 16)
        || memcmp(start + at_started + 16, text + at_started + 16, at_again - at_started - 16)) {
        return 0;
    }
    *id = strtoull(start + at_id, 0, 16);
    *to = strtoull(start + at_to, 0, 16);
    *started = strtoull(start + at_started, 0, 16);
    return 1;
}
