/* What p11tpm._native offers to Python; the comments are in the headers that native.h includes. */

extern const char MODULE_PATH[];

int secure(void);

void send_to_syslog(const char *path, int severity, const char *line);

int ecdh(int bits, const uint8_t *scalar, const uint8_t *x, const uint8_t *y,
         uint8_t *own_x, uint8_t *own_y, uint8_t *shared_x);

typedef struct hash hash;

hash *hash_new(int digest_size);
void hash_add(hash *at, const uint8_t *data, size_t size);
void hash_result(const hash *at, uint8_t *digest);
void hash_free(hash *at);
void hash_digest(int digest_size, const uint8_t *data, size_t size, uint8_t *digest);
void hash_mac(int digest_size, const uint8_t *key, size_t key_size, const uint8_t *data, size_t size, uint8_t *mac);

#define SECRET_SIZE ...

uint8_t *secret_new(void);
void secret_free(uint8_t *secret);
void secret_mask(const uint8_t *secret, size_t secret_size, const uint8_t *fixed, size_t fixed_size,
                 uint8_t *bytes, size_t size);

#define CONNECTION_STALE ...
#define CONNECTION_REFUSED_IN_SETUID ...
#define CONNECTION_REFUSED_IN_NEW_ROOT ...
#define CONNECTION_NOT_KEPT ...
#define CONNECTION_WANTS_SOCKET ...
#define RESPONSE_SIZE ...
#define FLUSH_MS ...

typedef struct connection connection;

connection *connection_new(const char *tcti, int idle_ms);
int connection_open(connection *c, int given, uint64_t *epoch);
int connection_transact(connection *c, uint64_t epoch, int ms, const uint8_t *command, size_t size,
                        uint8_t *response, size_t *response_size);
void connection_ended(connection *c, uint32_t handle);
int connection_close(connection *c, int ms);
void connection_give_up(connection *c);
void connection_end(connection *c);
void connection_rest(connection *c);
int connection_has_manager(const connection *c);
int connection_is_exclusive(const connection *c);
void connection_free(connection *c);
void connection_abandon(connection *c);
