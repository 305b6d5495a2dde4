/* Arguments: each one as it should be or, where the call is to be nonsense, as it should not be. All memory that is passed is really
 * there, unless the address is NULL, the length is 0, or it is one that nobody can mean: more than 1 GiB. */

static const CK_ULONG absurd[] = { (1ul << 30) + 1, 1ul << 31, (1ul << 32) - 1, 1ul << 32, 1ul << 62, 1ul << 63, ~0ul - 24, ~0ul };
static const CK_ULONG small_numbers[] = { 0, 1, 2, 3, 4, 5, 8, 16, 20, 24, 32, 64, 112, 128, 256, 2048 };

static bool spoils(world *w)
{
    return w->c.spoil && chance(&w->d, w->c.spoil);
}

static void add(world *w, CK_ULONG value)
{
    w->c.values[w->c.count++] = value;
}

static uint8_t *bytes(world *w, const void *content, size_t length)
{
    uint8_t *start = get(&w->m, &w->d, length, 0);
    if (length)
        memcpy(start, content, length);
    return start;
}

static uint8_t *noise(world *w, size_t length)
{
    uint8_t *start = get(&w->m, &w->d, length, 0);
    for (size_t i = 0; i < length; i++)
        start[i] = (uint8_t)roll(&w->d);
    return start;
}

/* An address and a length that are nonsense. */
typedef struct { const void *address; CK_ULONG length; } stretch;

static stretch odd_stretch(world *w)
{
    size_t length = below(&w->d, 2) ? below(&w->d, 300) : PICK(&w->d, small_numbers);
    switch (below(&w->d, 6)) {
    case 0:
        return (stretch){ NULL, 0 };
    case 1:
        return (stretch){ NULL, length };
    case 2:
        return (stretch){ w->m.forbidden, 0 };
    case 3:
        return (stretch){ w->m.forbidden, PICK(&w->d, absurd) };
    default:
        return (stretch){ noise(w, length), length };
    }
}

static void add_stretch(world *w, stretch s)
{
    add(w, ADDRESS(s.address));
    add(w, s.length);
}

/* What a parameter points to. */
static stretch pointed(world *w, const void *content, size_t length)
{
    return spoils(w) ? odd_stretch(w) : (stretch){ bytes(w, content, length), length };
}

static CK_ULONG number(world *w, CK_ULONG right)
{
    return !spoils(w) ? right : chance(&w->d, 50) ? PICK(&w->d, small_numbers) : PICK(&w->d, absurd);
}

/* -- mechanisms */

static const uint8_t zeros[512];

static size_t parameter_members(world *w, const row *r, CK_ULONG out[8])
{
    stretch one = { 0 }, two = { 0 };
    object *other;
    switch (r->parameter) {
    case CTR:
        out[0] = number(w, 128);
        out[1] = out[2] = 0;
        return 3;
    case GCM:
        one = pointed(w, zeros, 12);
        two = pointed(w, "associated", 10);
        memcpy(out, (CK_ULONG[]){ ADDRESS(one.address), one.length, 96, ADDRESS(two.address), two.length, number(w, 128) }, 48);
        return 6;
    case CCM:
        one = pointed(w, zeros, 12);
        two = pointed(w, "associated", 10);
        memcpy(out, (CK_ULONG[]){ number(w, 48), ADDRESS(one.address), one.length, ADDRESS(two.address), two.length, number(w, 16) }, 48);
        return 6;
    case OAEP:
        one = pointed(w, zeros, 0);
        memcpy(out, (CK_ULONG[]){ number(w, CKM_SHA256), number(w, 2), number(w, 1), ADDRESS(one.address), one.length }, 40);
        return 5;
    case PSS:
        memcpy(out, (CK_ULONG[]){ number(w, r->hash), number(w, r->mgf), number(w, 20) }, 24);
        return 3;
    case ECDH:
        one = pointed(w, zeros, 0);
        two = pointed(w, base_point, sizeof base_point);
        memcpy(out, (CK_ULONG[]){ number(w, 1), one.length, ADDRESS(one.address), two.length, ADDRESS(two.address) }, 40);
        return 5;
    case OTHER_KEY:
        other = object_with(w, CKO_SECRET_KEY, CKK_GENERIC_SECRET);
        out[0] = number(w, other ? other->handle : 0);
        return 1;
    case STRING:
        one = pointed(w, zeros, 16);
        memcpy(out, (CK_ULONG[]){ ADDRESS(one.address), one.length }, 16);
        return 2;
    case HKDF:
        one = pointed(w, "salt", 4);
        two = pointed(w, "info", 4);
        memcpy(out, (CK_ULONG[]){ number(w, 0x0101), number(w, CKM_SHA256), number(w, 2), ADDRESS(one.address), one.length, number(w, 0),
                                  ADDRESS(two.address), two.length }, 64);
        return 8;
    default: /* MAC_LENGTH */
        out[0] = number(w, 4);
        return 1;
    }
}

static stretch parameter(world *w, const row *r)
{
    CK_ULONG members[8] = { 0 };
    uint8_t data[32] = { 0 };
    stretch inner;
    size_t block = r->parameter == CBC_DATA8 ? 8 : 16;
    switch (r->parameter) {
    case NONE: /* what is there instead is not looked at */
        return chance(&w->d, 90) ? (stretch){ NULL, 0 } : (stretch){ w->m.forbidden, PICK(&w->d, small_numbers) };
    case WRAP_IV:
        return pointed(w, zeros, 0);
    case IV16:
        return pointed(w, zeros, 16);
    case IV8:
        return pointed(w, zeros, 8);
    case PUBLIC_VALUE:
        return pointed(w, base_point, sizeof base_point);
    case CBC_DATA16:
    case CBC_DATA8:
        inner = pointed(w, zeros, 16);
        memcpy(data + block, &inner, sizeof inner);
        return pointed(w, data, block + sizeof inner);
    default:
        return pointed(w, members, 8 * parameter_members(w, r, members));
    }
}

static void add_mechanism(world *w)
{
    call *c = &w->c;
    choose_mechanism(w, c->f->does);
    const work *made = c->f->begins == VERIFY        ? &w->made[at(SIGN)]
        : c->f->begins == DECRYPT                    ? &w->made[at(ENCRYPT)]
        : c->f->begins == VERIFY_RECOVER             ? &w->made[at(SIGN_RECOVER)]
        : c->f->does == CKF_UNWRAP                   ? &w->made[WRAPPED]
                                                     : NULL;
    if (made && made->there && chance(&w->d, 80)) {
        object *twin = twin_of(w, &made->key);
        c->replays = true;
        c->row = made->row;
        c->key = twin ? *twin : made->key;
    }
    if (spoils(w) && chance(&w->d, 30)) {
        c->replays = false;
        add(w, 0);
        return;
    }
    CK_MECHANISM *mechanism = get_aligned(&w->m, &w->d, sizeof *mechanism, 0);
    const row *r = spoils(w) ? &rows[below(&w->d, ROWS)] : c->row;
    if (r != c->row)
        c->replays = false;
    stretch its = spoils(w) && r->parameter != NONE ? odd_stretch(w) : parameter(w, r);
    *mechanism = (CK_MECHANISM){ spoils(w) ? roll(&w->d) : r->type, (void *)its.address, its.length };
    c->row = r;
    add(w, ADDRESS(mechanism));
}

/* -- templates */

static const CK_ULONG attribute_types[] = {
    CKA_CLASS, CKA_TOKEN, CKA_PRIVATE, CKA_LABEL, CKA_APPLICATION, CKA_VALUE, CKA_OBJECT_ID, CKA_CERTIFICATE_TYPE, CKA_ISSUER,
    CKA_SERIAL_NUMBER, CKA_TRUSTED, CKA_KEY_TYPE, CKA_SUBJECT, CKA_ID, CKA_SENSITIVE, CKA_ENCRYPT, CKA_DECRYPT, CKA_WRAP, CKA_UNWRAP,
    CKA_SIGN, CKA_SIGN_RECOVER, CKA_VERIFY, CKA_VERIFY_RECOVER, CKA_DERIVE, CKA_START_DATE, CKA_END_DATE, CKA_MODULUS, CKA_MODULUS_BITS,
    CKA_PUBLIC_EXPONENT, CKA_PRIVATE_EXPONENT, CKA_PRIME_1, CKA_PRIME_2, CKA_COEFFICIENT, CKA_PRIME, CKA_SUBPRIME, CKA_BASE,
    CKA_PRIME_BITS, CKA_VALUE_BITS, CKA_VALUE_LEN, CKA_EXTRACTABLE, CKA_LOCAL, CKA_NEVER_EXTRACTABLE, CKA_ALWAYS_SENSITIVE,
    CKA_KEY_GEN_MECHANISM, CKA_MODIFIABLE, CKA_EC_PARAMS, CKA_EC_POINT, CKA_ALWAYS_AUTHENTICATE, CKA_WRAP_WITH_TRUSTED,
    CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE, 0x40000213 /* CKA_DERIVE_TEMPLATE */, CKA_ALLOWED_MECHANISMS, CKA_VENDOR_DEFINED,
    0x17A /* CKA_COPYABLE */, 0x17B /* CKA_DESTROYABLE */, 4 /* CKA_UNIQUE_ID */, 0x90 /* CKA_CHECK_VALUE */, ~0ul,
};

static bool is_template(CK_ULONG type)
{
    return type == CKA_WRAP_TEMPLATE || type == CKA_UNWRAP_TEMPLATE || type == 0x40000213;
}

static const uint8_t p256[] = { 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07 };
static const CK_BBOOL yes = CK_TRUE, no = CK_FALSE;

typedef struct { CK_ATTRIBUTE entries[40]; size_t count; } template;

static void put(world *w, template *t, CK_ULONG type, const void *value, size_t length)
{
    t->entries[t->count++] = (CK_ATTRIBUTE){ type, bytes(w, value, length), length };
}

static void put_number(world *w, template *t, CK_ULONG type, CK_ULONG value)
{
    put(w, t, type, &value, sizeof value);
}

/* Something of which no harm comes: no sizes for which a search for primes takes hours. */
static void put_noise(world *w, template *t)
{
    static const CK_ULONG values[] = { 0, 1, 2, 3, 4, 16, 32, CKK_AES, CKK_EC, CKO_SECRET_KEY, 512, ~0ul };
    CK_ULONG type = PICK(&w->d, attribute_types), value = PICK(&w->d, values);
    stretch any = odd_stretch(w);
    if (is_template(type)) {
        CK_ATTRIBUTE *inner = get_aligned(&w->m, &w->d, sizeof *inner, 0);
        *inner = (CK_ATTRIBUTE){ PICK(&w->d, attribute_types), bytes(w, &yes, 1), 1 };
        if (is_template(inner->type))
            inner->ulValueLen = 0;
        t->entries[t->count++] = (CK_ATTRIBUTE){ type, inner, PICK(&w->d, ((CK_ULONG[]){ sizeof *inner, 0, 7, absurd[0] })) };
    } else if (chance(&w->d, 30)) {
        t->entries[t->count++] = (CK_ATTRIBUTE){ type, (void *)any.address, any.length };
    } else if (chance(&w->d, 50)) {
        put(w, t, type, &value, PICK(&w->d, ((size_t[]){ 1, 1, 8, 8, 3 })));
    } else {
        put(w, t, type, base_point, below(&w->d, sizeof base_point));
    }
}

static void put_secret_key(world *w, template *t, bool with_type, CK_ULONG type)
{
    static const CK_ULONG uses[] = { CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE, CKA_EXTRACTABLE };
    if (with_type) {
        put_number(w, t, CKA_CLASS, CKO_SECRET_KEY);
        put_number(w, t, CKA_KEY_TYPE, type);
    }
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++)
        put(w, t, uses[i], &yes, 1);
    put(w, t, CKA_SENSITIVE, &no, 1);
    put(w, t, CKA_TOKEN, chance(&w->d, 3) ? &yes : &no, 1);
}

static void put_pair(world *w, template *t, bool private, CK_ULONG type, uint32_t id)
{
    put(w, t, CKA_ID, &id, sizeof id);
    put(w, t, CKA_TOKEN, chance(&w->d, 5) ? &yes : &no, 1);
    if (!private && type == CKK_EC)
        put(w, t, CKA_EC_PARAMS, p256, sizeof p256);
    if (!private && type == CKK_RSA)
        put_number(w, t, CKA_MODULUS_BITS, 2048);
    if (private)
        put(w, t, CKA_DERIVE, type == CKK_EC ? &yes : &no, 1);
    if (chance(&w->d, 10))
        put(w, t, CKA_ALWAYS_AUTHENTICATE, private && chance(&w->d, 50) ? &yes : &no, private);
}

/* A template that the function can take. */
static void put_sense(world *w, template *t)
{
    const char *name = w->c.f->name;
    const row *r = w->c.row;
    CK_ULONG kind = PICK(&w->d, ((CK_ULONG[]){ CKK_AES, CKK_GENERIC_SECRET, CKK_DES3, HKDF_KEY }));
    if (!strcmp(name, "C_CreateObject") && chance(&w->d, 50)) {
        put_secret_key(w, t, true, kind);
        static const uint8_t odd[24] = { 1, 2, 4, 7, 8, 11, 13, 14, 16, 19, 21, 22, 25, 26, 28, 31, 32, 35, 37, 38, 41, 42, 44, 47 };
        put(w, t, CKA_VALUE, odd, 24);
    } else if (!strcmp(name, "C_CreateObject")) {
        put_number(w, t, CKA_CLASS, CKO_DATA);
        put(w, t, CKA_VALUE, zeros, below(&w->d, 300));
        put(w, t, CKA_PRIVATE, chance(&w->d, 20) ? &yes : &no, 1);
        put(w, t, CKA_TOKEN, chance(&w->d, 10) ? &yes : &no, 1);
    } else if (!strcmp(name, "C_GenerateKey")) {
        put_secret_key(w, t, false, 0);
        if (r && r->key != CKK_DES3)
            put_number(w, t, CKA_VALUE_LEN, PICK(&w->d, ((CK_ULONG[]){ 16, 32 })));
    } else if (!strcmp(name, "C_DeriveKey") || !strcmp(name, "C_UnwrapKey")) {
        put_secret_key(w, t, true, CKK_GENERIC_SECRET);
        if (name[2] == 'D' && r && (r->parameter == ECDH || r->parameter == HKDF))
            put_number(w, t, CKA_VALUE_LEN, 16);
        if (r && r->type == 0x402B)
            t->entries[0] = t->entries[--t->count]; /* CKM_HKDF_DATA makes no key */
    } else if (!strcmp(name, "C_GenerateKeyPair")) {
        put_pair(w, t, w->c.attributes, r ? r->key : CKK_EC, w->c.subject.id);
    } else if (!strcmp(name, "C_FindObjectsInit")) {
        if (chance(&w->d, 50))
            put_number(w, t, CKA_CLASS, PICK(&w->d, ((CK_ULONG[]){ CKO_PRIVATE_KEY, CKO_PUBLIC_KEY, CKO_SECRET_KEY, CKO_DATA })));
    } else {
        put(w, t, CKA_LABEL, "label", below(&w->d, 6));
        if (!strcmp(name, "C_CopyObject"))
            put(w, t, CKA_TOKEN, chance(&w->d, 3) ? &yes : &no, 1);
    }
}

static void add_template(world *w)
{
    template t = { .count = 0 };
    put_sense(w, &t);
    while (spoils(w) && t.count < 30)
        put_noise(w, &t);
    if (t.count && spoils(w))
        t.count = below(&w->d, t.count);
    CK_ATTRIBUTE *array = get_aligned(&w->m, &w->d, t.count * sizeof *array, 0);
    memcpy(array, t.entries, t.count * sizeof *array);
    w->c.attributes = array; /* the next template is the second */
    if (!spoils(w) || chance(&w->d, 70)) {
        add_stretch(w, (stretch){ array, t.count });
        return;
    }
    static const CK_ULONG many[] = { 1025, 1 << 20, ~0ul };
    add_stretch(w, PICK(&w->d, ((stretch[]){ { NULL, 0 }, { NULL, 3 }, { w->m.forbidden, 0 }, { w->m.forbidden, many[below(&w->d, 3)] } })));
}

/* Attributes to be read: their sizes asked for, room that is enough, too little or none. */
static void add_wanted(world *w)
{
    call *c = &w->c;
    size_t count = 1 + below(&w->d, 6);
    CK_ATTRIBUTE *array = get_aligned(&w->m, &w->d, count * sizeof *array, count * sizeof *array);
    for (size_t i = 0; i < count; i++) {
        CK_ULONG type = spoils(w) ? PICK(&w->d, attribute_types) : PICK(&w->d, ((CK_ULONG[]){ CKA_CLASS, CKA_LABEL, CKA_TOKEN, CKA_ID }));
        size_t room = PICK(&w->d, ((size_t[]){ 600, 600, 600, 1, 8, 0 }));
        uint8_t *value = chance(&w->d, 25) ? NULL : room ? get_aligned(&w->m, &w->d, room, (room + 7) & ~7ul) : w->m.forbidden;
        CK_ULONG told = room;
        if (is_template(type) && value && room)
            memset(value, 0, room);
        if (spoils(w) && (!value || room == 600)) /* values are no longer than a page */
            told = PICK(&w->d, absurd), value = value ? memset(get_aligned(&w->m, &w->d, SMALL, SMALL), 0, SMALL) : NULL;
        array[i] = (CK_ATTRIBUTE){ type, value, told };
    }
    if (spoils(w)) {
        add_stretch(w, PICK(&w->d, ((stretch[]){ { NULL, 0 }, { NULL, 3 }, { w->m.forbidden, 0 }, { w->m.forbidden, 1025 } })));
        return;
    }
    c->attributes = array;
    c->attribute_count = count;
    memcpy(c->attributes_before, array, count * sizeof *array);
    add_stretch(w, (stretch){ array, count });
}

/* -- data */

static size_t data_length(world *w, const row *r)
{
    int unit = r && r->unit ? r->unit : 1;
    if (unit < 0)
        return (size_t)-unit;
    return unit > 1 ? (size_t)unit * (1 + below(&w->d, 4)) : below(&w->d, chance(&w->d, 3) ? DATA_MOST : 64);
}

/* Data, of an operation if one is used: what its counterpart made, if that is to be seen to fit. */
static void add_bytes(world *w)
{
    call *c = &w->c;
    unsigned uses = c->f->uses & (ENCRYPT | DECRYPT | SIGN | SIGN_RECOVER | VERIFY | VERIFY_RECOVER);
    size_t operation = uses ? at(uses) : 0;
    const work *begun = uses && c->session ? &c->session->begun[operation] : NULL;
    const work *made = c->f->does == CKF_UNWRAP ? &w->made[WRAPPED] : begun;
    bool replays = c->f->does == CKF_UNWRAP ? c->replays : begun && c->session->replays[operation];
    bool second = c->datas++ || c->f->does == CKF_UNWRAP || strstr(c->f->name, "VerifyFinal") || !strcmp(c->f->name, "C_VerifyRecover")
        || (replays && c->f->uses & DECRYPT);
    stretch s;
    if (c->f->name[2] == 'L') /* C_LoginUser: the users have no names */
        s = pointed(w, "", 0);
    else if (spoils(w))
        s = odd_stretch(w);
    else if (replays && second)
        s = (stretch){ bytes(w, made->out, made->out_length), made->out_length };
    else if (replays)
        s = (stretch){ bytes(w, made->data, made->length), made->length };
    else
        s.length = data_length(w, begun ? begun->row : NULL), s.address = noise(w, s.length);
    if (begun && begun->row && begun->row->type == CKM_RSA_X_509 && s.length == 256 && !replays)
        memset((void *)s.address, 0, 1); /* a number below the modulus */
    if (c->datas == 1) {
        c->data = s.length <= DATA_MOST ? (uint8_t *)s.address : NULL;
        c->data_length = s.length;
    }
    add_stretch(w, s);
}

static void add_length(world *w, CK_ULONG told)
{
    CK_ULONG *length = get_aligned(&w->m, &w->d, sizeof *length, sizeof *length);
    *length = told;
    w->c.out_length = spoils(w) && chance(&w->d, 30) ? NULL : length;
    w->c.out_told = told;
    if (!w->c.out_length)
        w->c.impossible = "there is nowhere to put the length";
    add(w, ADDRESS(w->c.out_length));
}

static void add_out(world *w)
{
    call *c = &w->c;
    size_t room = SMALL;
    CK_ULONG told;
    if (chance(&w->d, 20)) {
        add(w, 0);
        add_length(w, PICK(&w->d, small_numbers));
        return;
    }
    if (spoils(w)) {
        room = PICK(&w->d, ((size_t[]){ 0, 1, 8, 15, 16, 63, 64, 255 }));
    }
    told = room;
    if (spoils(w) && w->alone) {
        room = LARGE;
        told = PICK(&w->d, absurd);
    }
    c->out = room ? get(&w->m, &w->d, room, room) : w->m.forbidden;
    add(w, ADDRESS(c->out));
    add_length(w, told);
}

static void add_random(world *w)
{
    call *c = &w->c;
    size_t length = below(&w->d, 48);
    if (spoils(w)) {
        stretch any = PICK(&w->d, ((stretch[]){ { NULL, 0 }, { NULL, 5 }, { w->m.forbidden, 0 }, { w->m.forbidden, absurd[below(&w->d, 8)] } }));
        if (any.length)
            c->impossible = "there is nowhere to put random bytes";
        add_stretch(w, any);
        return;
    }
    c->out = get(&w->m, &w->d, length, length);
    c->out_told = length;
    add_stretch(w, (stretch){ c->out, length });
}

static void add_list(world *w)
{
    size_t room = PICK(&w->d, ((size_t[]){ 512, 512, 0, 1, 3 }));
    CK_ULONG told = room;
    if (chance(&w->d, 20)) {
        add(w, 0);
    } else {
        if (room == 512 && spoils(w))
            told = PICK(&w->d, absurd);
        add(w, ADDRESS(room ? get_aligned(&w->m, &w->d, 8 * room, 8 * room) : (void *)w->m.forbidden));
    }
    add_length(w, told);
}

static void add_found(world *w)
{
    size_t room = PICK(&w->d, ((size_t[]){ 512, 10, 1 }));
    CK_ULONG *out = get_aligned(&w->m, &w->d, 8 * room, 8 * room);
    w->c.out = spoils(w) ? NULL : (uint8_t *)out;
    if (!w->c.out)
        w->c.impossible = "there is nowhere to put handles";
    add(w, ADDRESS(w->c.out));
    add(w, room);
    add_length(w, 0);
    w->c.out_told = room;
}

/* -- handles */

static const CK_ULONG nobodys[] = { 0, 1ul << 40, ~0ul, ~0ul - 7, 1ul << 63 };

static void add_session(world *w)
{
    call *c = &w->c;
    session *s = c->session;
    if (!s)
        s = c->session = &w->sessions[below(&w->d, SESSIONS)];
    if (spoils(w) && chance(&w->d, 40)) {
        c->session = NULL;
        c->impossible = "there is no such session";
        add(w, PICK(&w->d, nobodys));
        return;
    }
    add(w, s->handle);
    if (!s->handle)
        c->impossible = "there is no such session";
}

static void add_key(world *w)
{
    if (spoils(w)) {
        w->c.replays = false;
        add(w, w->object_count && chance(&w->d, 70) ? w->objects[below(&w->d, w->object_count)].handle : PICK(&w->d, nobodys));
        return;
    }
    add(w, w->c.key.handle);
}

static void add_object(world *w)
{
    call *c = &w->c;
    bool secret = c->f->does == CKF_WRAP || !strcmp(c->f->name, "C_DigestKey");
    object *o = secret ? object_with(w, CKO_SECRET_KEY, CK_UNAVAILABLE_INFORMATION) : NULL;
    if (!o && w->object_count)
        o = &w->objects[below(&w->d, w->object_count)];
    if (!o || (spoils(w) && chance(&w->d, 40))) {
        c->impossible = "there is no such object";
        add(w, PICK(&w->d, nobodys));
        return;
    }
    c->subject = *o;
    add(w, o->handle);
}

static void add_handle(world *w)
{
    call *c = &w->c;
    CK_ULONG *handle = get_aligned(&w->m, &w->d, sizeof *handle, sizeof *handle);
    if (spoils(w) && chance(&w->d, 50)) {
        handle = NULL;
        c->impossible = "there is nowhere to put the handle";
    } else {
        *handle = 0;
    }
    c->handles[c->handle_count++] = handle;
    add(w, ADDRESS(handle));
}

/* -- PINs */

static bool is_so_logged_in(world *w)
{
    CK_SESSION_INFO info;
    CK_RV rv = RAW("C_GetSessionInfo", w->c.session ? w->c.session->handle : 0, ADDRESS(&info));
    return rv == CKR_OK && info.state == CKS_RW_SO_FUNCTIONS;
}

/* A PIN that is right, as the function wants it, or a new one; a wrong one as long as some are left. */
static void add_pin(world *w)
{
    static const char *const fresh[] = { "123456", "so-secret", "0123456789abcdef0123456789abcdef", "pin4" };
    call *c = &w->c;
    bool new = !strcmp(c->f->name, "C_InitPIN") || c->pins_given++;
    bool so = c->f->name[2] == 'L' ? c->user == CKU_SO : !strcmp(c->f->name, "C_InitToken") || is_so_logged_in(w);
    const char *right = new ? PICK(&w->d, fresh) : so ? token_pins.so : token_pins.user;
    stretch s = { bytes(w, right, strlen(right)), strlen(right) };
    if (new && spoils(w)) {
        s = odd_stretch(w);
        if (s.length < sizeof c->new_pin && s.address && s.length) /* a PIN that can be told from others */
            s = (stretch){ bytes(w, right, 4), 4 };
    } else if (!new && token_pins.wrong > 0 && spoils(w)) {
        token_pins.wrong--;
        common->wrong_pins++;
        s = odd_stretch(w);
    }
    bool real = s.address && s.length < sizeof c->new_pin && s.address != w->m.forbidden;
    if (new && real)
        snprintf(c->new_pin, sizeof c->new_pin, "%.*s", (int)s.length, (const char *)s.address);
    if (!new) {
        c->takes_pin = true;
        c->right_pin = real && s.length == strlen(right) && !memcmp(s.address, right, s.length);
    }
    add_stretch(w, s);
}

static void add_user(world *w)
{
    static const CK_USER_TYPE odd[] = { CKU_CONTEXT_SPECIFIC, 3, ~0ul };
    w->c.user = spoils(w) ? PICK(&w->d, odd) : w->alone && chance(&w->d, 15) ? CKU_SO : CKU_USER;
    add(w, w->c.user);
}

/* -- the rest */

static void add_structure(world *w)
{
    bool nowhere = spoils(w);
    if (nowhere)
        w->c.impossible = "there is nowhere to put it";
    add(w, nowhere ? 0 : ADDRESS(get_aligned(&w->m, &w->d, w->c.f->size, (w->c.f->size + 7) & ~7ul)));
}

static void add_slot(world *w)
{
    if (spoils(w)) {
        w->c.impossible = "there is no such slot";
        add(w, PICK(&w->d, nobodys));
        return;
    }
    add(w, w->slot);
}

static void add_flags(world *w)
{
    if (!strcmp(w->c.f->name, "C_OpenSession"))
        add(w, spoils(w) ? PICK(&w->d, small_numbers) : CKF_SERIAL_SESSION | CKF_RW_SESSION);
    else if (!strcmp(w->c.f->name, "C_WaitForSlotEvent"))
        add(w, CKF_DONT_BLOCK | (spoils(w) ? roll(&w->d) : 0));
    else
        add(w, chance(&w->d, 50) ? 0 : 1ul << below(&w->d, 40));
}

static void add_reserved(world *w)
{
    bool odd = spoils(w);
    if (odd)
        w->c.impossible = "what is reserved is not NULL";
    add(w, odd ? ADDRESS(w->m.forbidden) : 0);
}

static void add_initialize(world *w)
{
    if (chance(&w->d, 30)) {
        add(w, 0);
        return;
    }
    CK_C_INITIALIZE_ARGS *given = get_aligned(&w->m, &w->d, sizeof *given, 0);
    *given = (CK_C_INITIALIZE_ARGS){ .flags = CKF_OS_LOCKING_OK };
    if (spoils(w)) {
        given->LockMutex = (CK_LOCKMUTEX)(uintptr_t)w->m.forbidden;
        w->c.impossible = "one of four functions is given";
    }
    add(w, ADDRESS(given));
}

static void add_interface_list(world *w)
{
    CK_ULONG room = below(&w->d, 4);
    add(w, chance(&w->d, 30) ? 0 : ADDRESS(get_aligned(&w->m, &w->d, 24 * room, 24 * room)));
    add_length(w, room);
}

static void add_argument(world *w, char letter)
{
    call *c = &w->c;
    switch (letter) {
    case 's': add_session(w); break;
    case 'S': add_slot(w); break;
    case 'm': add_mechanism(w); break;
    case 'M': add(w, spoils(w) ? roll(&w->d) : rows[below(&w->d, ROWS)].type); break;
    case 'k': add_key(w); break;
    case 'o': add_object(w); break;
    case 'h': add_handle(w); break;
    case 'b': add_bytes(w); break;
    case 'B': add_out(w); break;
    case 'R': add_random(w); break;
    case 't': add_template(w); break;
    case 'T': add_wanted(w); break;
    case 'L': add_list(w); break;
    case 'F': add_found(w); break;
    case 'p': add_pin(w); break;
    case 'u': add_user(w); break;
    case 'f': add_flags(w); break;
    case 'i': add_structure(w); break;
    case 'I': add_initialize(w); break;
    case 'N': add_reserved(w); break;
    case 'P': add(w, below(&w->d, 3)); break;
    case 'X': add(w, 0), add(w, 0), add_handle(w); break;
    case 'v': add(w, spoils(w) ? 0 : ADDRESS(get_aligned(&w->m, &w->d, 8, 8))); break;
    case 'l': add(w, spoils(w) ? (c->impossible = "there is no label", 0) : ADDRESS(bytes(w, "token                            ", 32))); break;
    case 'y': add_handle(w); break;
    case 'Y': add_interface_list(w); break;
    case 'q': add(w, chance(&w->d, 50) ? 0 : ADDRESS(bytes(w, spoils(w) ? "PKCS 12" : "PKCS 11", 8))); break;
    case 'V': add(w, chance(&w->d, 50) ? 0 : ADDRESS(bytes(w, spoils(w) ? "\2\50" : "\3", 2))); break;
    default: _exit(3);
    }
}
