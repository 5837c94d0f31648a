/* The lines of a block that are plain records, and where in them the texts stand.

   A line is plain where it is a record as most programs write it, without images, in which nothing needs a second look:
   the fields that `kto_data.record` names in any order, each once; strings in valid UTF-8 and in their shortest spelling
   (that of `orjson.dumps`), or with `\u` for what is none of ASCII (that of `json.dumps`); between tokens nothing but
   spaces; texts that show something; nowhere the beginning of a control token or of a placeholder. Whether the roles are
   in order is for the caller to say.

   What is not plain is left to `kto_data.clean`, which judges every line that this file does not. So nothing here has to
   be complete. It reads bytes that nobody has vouched for, and therefore makes nothing: no Python object, no memory, no
   state. It reads within a line, and writes within the two buffers that it is given. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000 /* one build for Python 3.11 and all that follow */
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef const unsigned char *Place;
typedef unsigned char Bytes __attribute__((vector_size(16))); /* GNU C: what is done to one is done to each */

/* What a line is read with. */
typedef struct {
    Place at, stop;                    /* what is left of the line */
    Place base;                        /* where the block begins */
    Place beginnings, beginnings_stop; /* of control tokens and placeholders, three bytes each */
    int64_t *span, *spans_stop;        /* where the next text is written down, and the end of the room */
    bool may_have_more;                /* whether other fields than the messages and the label are read */
    bool is_escaped;                   /* whether one of its strings is spelled with `\u` */
} Reader;

/* What is said of a line: six numbers, as `kto_data/_scan.pyi` has them. */
typedef struct {
    int64_t roles, label, is_escaped, length, source_start, source_stop;
} Found;

enum { MAX_MESSAGES = 31, MAX_ID_DIGITS = 18 }; /* 31 roles of two bits each, and a bit before them */

static const char *const ROLES[] = {"\"system\"", "\"user\"", "\"assistant\"", "\"tool\""};

static bool take(Reader *r, unsigned char byte) {
    if (r->at == r->stop || *r->at != byte) return false;
    r->at++;
    return true;
}

static bool take_word(Reader *r, const char *word) {
    size_t length = strlen(word);
    if ((size_t)(r->stop - r->at) < length || memcmp(r->at, word, length) != 0) return false;
    r->at += length;
    return true;
}

static void skip_spaces(Reader *r) {
    while (r->at < r->stop && *r->at == ' ') r->at++;
}

/* A key that may still come, and its colon. */
static bool take_key(Reader *r, const char *key) {
    Place start = r->at;
    if (!take_word(r, key)) return false;
    skip_spaces(r);
    if (!take(r, ':')) {
        r->at = start; /* no key: whoever asks refuses the line, as nothing else begins so */
        return false;
    }
    skip_spaces(r);
    return true;
}

/* The four digits of an escape `\u` at `at`; -1 where it is none. */
static int32_t code_of_escape(Place at, Place stop) {
    int32_t code = 0;
    if (stop - at < 6 || at[0] != '\\' || at[1] != 'u') return -1;
    for (int index = 2; index < 6; index++) {
        unsigned char digit = at[index], letter = digit | 0x20;
        if (digit >= '0' && digit <= '9')
            code = code << 4 | (digit - '0');
        else if (letter >= 'a' && letter <= 'f')
            code = code << 4 | (letter - 'a' + 10);
        else
            return -1;
    }
    return code;
}

/* The bytes of the character at `at`, which is escaped with `\u`, and its code; 0 where it is none, or one of ASCII. */
static int take_escaped(Place at, Place stop, int32_t *code) {
    *code = code_of_escape(at, stop);
    if (*code < 0x80 || (*code >= 0xDC00 && *code < 0xE000)) return 0;
    if (*code < 0xD800 || *code >= 0xE000) return 6;
    int32_t low = code_of_escape(at + 6, stop);
    if (low < 0xDC00 || low >= 0xE000) return 0;
    *code = 0x10000 + ((*code - 0xD800) << 10 | (low - 0xDC00));
    return 12;
}

/* The bytes of the character at `at`, which is none of ASCII, and its code; 0 where it is none of UTF-8. Unicode, table
   3-7. */
static int take_utf8(Place at, Place stop, int32_t *code) {
    unsigned char first = at[0], least = 0x80, most = 0xBF;
    int length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4 || stop - at < length) return 0;
    if (first == 0xE0) least = 0xA0; /* less would have a shorter form */
    if (first == 0xED) most = 0x9F;  /* more is half of a surrogate pair */
    if (first == 0xF0) least = 0x90;
    if (first == 0xF4) most = 0x8F; /* more is beyond Unicode */
    if (at[1] < least || at[1] > most) return 0;
    *code = first & (0x7F >> length);
    for (int index = 1; index < length; index++) {
        if (at[index] < 0x80 || at[index] > 0xBF) return 0;
        *code = *code << 6 | (at[index] & 0x3F);
    }
    return length;
}

static int take_character(Place at, Place stop, int32_t *code) {
    return *at == '\\' ? take_escaped(at, stop, code) : take_utf8(at, stop, code);
}

/* Whether a byte of a string stands for itself, and begins nothing. */
static bool is_itself(unsigned char byte) {
    return byte >= ' ' && byte < 0x80 && byte != '"' && byte != '\\' && byte != '<' && byte != '[';
}

/* The first place from `at` on whose byte does not stand for itself; `stop` where there is none. */
static Place skip_plain(Place at, Place stop) {
    for (Bytes bytes; stop - at >= (Py_ssize_t)sizeof bytes; at += sizeof bytes) {
        memcpy(&bytes, at, sizeof bytes);
        Bytes others = (Bytes)((bytes < ' ') | (bytes > 0x7F) | (bytes == '"') | (bytes == '\\') | (bytes == '<') |
                               (bytes == '['));
        uint64_t halves[2];
        memcpy(halves, &others, sizeof others);
        for (int index = 0; halves[0] | halves[1]; index++)
            if (others[index]) return at + index;
    }
    while (at < stop && is_itself(*at)) at++;
    return at;
}

static bool is_beginning(const Reader *r, Place at) {
    if (r->stop - at < 3) return false;
    if (at[1] == '\\' && at[2] == 'u') return true; /* of DeepSeek's tokens, whose second character is none of ASCII */
    for (Place known = r->beginnings; known < r->beginnings_stop; known += 3)
        if (memcmp(at, known, 3) == 0) return true;
    return false;
}

/* The characters of a string whose first quotation mark was taken; -1 where it is not plain. */
static int64_t take_string(Reader *r) {
    int64_t length = 0;
    int32_t code;
    for (;;) {
        Place start = r->at;
        r->at = skip_plain(start, r->stop);
        length += r->at - start;
        if (r->at == r->stop) return -1;
        unsigned char byte = *r->at, next = r->stop - r->at > 1 ? r->at[1] : 0;
        int taken = 1;
        if (byte == '"') {
            r->at++;
            return length;
        }
        if (byte == '\\' && next != 'u') {
            /* Of `\/`, a slash spelled longer than it need be, others may tell what it hides. */
            taken = next != 0 && strchr("\"\\bfnrt", next) ? 2 : 0;
        } else if (byte == '\\' || byte >= 0x80) {
            taken = take_character(r->at, r->stop, &code);
            r->is_escaped |= byte == '\\';
        } else if (byte < ' ' || is_beginning(r, r->at)) {
            taken = 0;
        }
        if (taken == 0) return -1;
        r->at += taken;
        length++;
    }
}

/* Whether the text from `at` on, which was taken as a string, is certain to show something. */
static bool is_visible(Place at, Place stop) {
    int32_t code;
    for (;;) {
        if (*at == ' ') {
            at++;
        } else if (*at == '\\' && at[1] != 'u') {
            if (at[1] == '"' || at[1] == '\\') return true;
            at += 2;
        } else if (*at == '\\' || *at >= 0x80) {
            at += take_character(at, stop, &code);
            /* Among the others are spaces, soft hyphens, joiners and byte order marks. */
            if ((code >= 0xC0 && code < 0x1000) || (code > 0x3000 && code < 0xF000) || code > 0xFFFF) return true;
        } else {
            return *at != '"';
        }
    }
}

static bool take_message(Reader *r, Found *found) {
    int64_t role = -1;
    Place text = NULL, text_stop = NULL;
    if (!take(r, '{')) return false;
    do {
        skip_spaces(r);
        if (role < 0 && take_key(r, "\"role\"")) {
            for (role = 3; role >= 0 && !take_word(r, ROLES[role]);) role--;
            if (role < 0) return false;
        } else if (text == NULL && take_key(r, "\"content\"")) {
            text = r->at;
            if (!take(r, '"') || (found->length = take_string(r)) < 0 || !is_visible(text + 1, r->stop)) return false;
            text_stop = r->at;
        } else {
            return false;
        }
        skip_spaces(r);
    } while (take(r, ','));
    if (!take(r, '}') || role < 0 || text == NULL) return false;
    if (found->roles >> (2 * MAX_MESSAGES) != 0 || r->spans_stop - r->span < 2) return false;
    found->roles = found->roles << 2 | role;
    *r->span++ = text - r->base;
    *r->span++ = text_stop - r->base;
    return true;
}

static bool take_messages(Reader *r, Found *found) {
    if (!take(r, '[')) return false;
    do {
        skip_spaces(r);
        if (!take_message(r, found)) return false;
        skip_spaces(r);
    } while (take(r, ','));
    return take(r, ']');
}

static bool take_source(Reader *r, Found *found) {
    Place start = r->at;
    if (!take(r, '"')) return take_word(r, "null");
    if (take_string(r) < 0) return false;
    found->source_start = start - r->base;
    found->source_stop = r->at - r->base;
    return true;
}

static bool take_id(Reader *r) {
    if (take(r, '"')) return take_string(r) >= 0;
    Place start = r->at;
    while (r->at < r->stop && *r->at >= '0' && *r->at <= '9') r->at++;
    Py_ssize_t digits = r->at - start;
    if (digits == 0) return take_word(r, "null");
    return digits <= MAX_ID_DIGITS && (digits == 1 || *start != '0');
}

static bool take_no_images(Reader *r) {
    if (!take(r, '[')) return false;
    skip_spaces(r);
    return take(r, ']');
}

static bool take_record(Reader *r, Found *found) {
    bool has_id = false, has_source = false, has_images = false;
    if (!take(r, '{')) return false;
    do {
        bool is_plain = false;
        skip_spaces(r);
        if (found->roles == 1 && take_key(r, "\"messages\"")) {
            is_plain = take_messages(r, found);
        } else if (found->label < 0 && take_key(r, "\"label\"")) {
            found->label = take_word(r, "true") ? 1 : 0;
            is_plain = found->label || take_word(r, "false");
        } else if (r->may_have_more && !has_id && take_key(r, "\"id\"")) {
            is_plain = has_id = take_id(r);
        } else if (r->may_have_more && !has_source && take_key(r, "\"source\"")) {
            is_plain = has_source = take_source(r, found);
        } else if (r->may_have_more && !has_images && take_key(r, "\"images\"")) {
            is_plain = has_images = take_no_images(r);
        }
        if (!is_plain) return false;
        skip_spaces(r);
    } while (take(r, ','));
    return take(r, '}') && r->at == r->stop && found->roles > 1 && found->label >= 0;
}

/* Whether 64-bit numbers can be read from a buffer, or written to it; an empty one may be anywhere. */
static bool holds_numbers(const Py_buffer *buffer) {
    return buffer->len == 0 || (uintptr_t)buffer->buf % sizeof(int64_t) == 0;
}

/* How many numbers were written as spans; -1 where an end is none in `data`. `lines` has room for as many as `ends`. */
static Py_ssize_t scan_lines(const Py_buffer *data, const Py_buffer *ends, Reader r, Found *lines, int64_t longest) {
    const int64_t *end = ends->buf;
    int64_t *first = r.span, start = 0;
    for (Py_ssize_t index = 0; index < ends->len / (Py_ssize_t)sizeof *end; index++) {
        int64_t stop = end[index]; /* read once: whoever calls may have given the same memory twice */
        if (stop < start || stop > data->len) return -1;
        int64_t *before = r.span;
        Found found = {.roles = 1, .label = -1};
        r.at = r.base + start;
        r.stop = r.base + stop;
        r.is_escaped = false;
        if (stop - start <= longest && take_record(&r, &found)) {
            found.is_escaped = r.is_escaped;
        } else {
            found = (Found){0};
            r.span = before;
        }
        lines[index] = found;
        start = stop + 1;
    }
    return r.span - first;
}

static PyObject *scan(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer data, ends, beginnings, lines, spans;
    long long longest;
    int may_have_more;
    Py_ssize_t written = -1;
    if (!PyArg_ParseTuple(arguments, "y*y*y*Lpw*w*:scan", &data, &ends, &beginnings, &longest, &may_have_more, &lines,
                          &spans))
        return NULL;
    bool are_numbers = holds_numbers(&ends) && holds_numbers(&lines) && holds_numbers(&spans);
    bool is_room = lines.len % (Py_ssize_t)sizeof(Found) == 0 &&
                   lines.len / (Py_ssize_t)sizeof(Found) == ends.len / (Py_ssize_t)sizeof(int64_t);
    if (are_numbers && is_room) {
        Reader reader = {.base = data.buf, .beginnings = beginnings.buf, .span = spans.buf};
        reader.may_have_more = may_have_more;
        reader.beginnings_stop = reader.beginnings + beginnings.len / 3 * 3;
        reader.spans_stop = reader.span + spans.len / (Py_ssize_t)sizeof(int64_t);
        written = scan_lines(&data, &ends, reader, lines.buf, longest);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&ends);
    PyBuffer_Release(&beginnings);
    PyBuffer_Release(&lines);
    PyBuffer_Release(&spans);
    if (written >= 0) return PyLong_FromSsize_t(written);
    PyErr_SetString(PyExc_ValueError,
                    "ends must ascend within the data, each with room for six numbers, all arrays be of 64 bits");
    return NULL;
}

static PyMethodDef methods[] = {
    {"scan", scan, METH_VARARGS, PyDoc_STR("See kto_data/_scan.pyi.")},
    {NULL, NULL, 0, NULL},
};

/* What `kto_data.plain` asks for: another number where what is taken or written gets another meaning. */
enum { CONTRACT = 1 };

static int execute(PyObject *module) { return PyModule_AddIntConstant(module, "CONTRACT", CONTRACT); }

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_scan",
    .m_doc = PyDoc_STR("Plain lines, told by compiled code."),
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__scan(void) { return PyModuleDef_Init(&definition); }
