// The published test vectors of WebCrypto, and the key storage that node-webcrypto-p11 adds, on the token that the
// environment names by MODULE and PIN. Prints a line of JSON for each test: its name, and what was wrong.
"use strict";
const assert = require("node:assert");
const node = require("node:crypto");
const { WebcryptoTest, vectors } = require("@peculiar/webcrypto-test");
const { Crypto } = require("node-webcrypto-p11");

const OTHERS = /^(DES|HKDF|PBKDF2|RSAESPKCS1$|AES\d+(KW|CTR|CMAC)$)/; // node-webcrypto-p11 has none of them
const tests = [];
const place = [];

// what the vectors' package takes from a test runner
globalThis.context = (name, body) => {
  place.push(name);
  body();
  place.pop();
};
globalThis.it = (name, body) => tests.push([[...place, name].join(": "), body]);

function der(tag, ...parts) {
  const content = Buffer.concat(parts);
  const length = content.length < 128 ? [content.length] : [129, content.length];
  return Buffer.concat([Buffer.from([tag, ...length]), content]);
}

// PKCS#8 of the private number alone: a private key in a token knows no public one to export
function withoutPublicKey(pkcs8) {
  const key = node.createPrivateKey({ key: Buffer.from(pkcs8), format: "der", type: "pkcs8" });
  const scalar = Buffer.from(key.export({ format: "jwk" }).d, "base64url");
  const spki = node.createPublicKey(key).export({ format: "der", type: "spki" });
  const start = spki[1] & 0x80 ? 3 : 2;
  const algorithm = spki.subarray(start, start + 2 + spki[start + 1]);
  const one = Buffer.from([2, 1, 1]);
  return der(0x30, Buffer.from([2, 1, 0]), algorithm, der(4, der(0x30, one, der(4, scalar))));
}

for (const { actions } of [vectors.ECDSA, vectors.ECDH]) {
  for (const action of actions.import) {
    if (action.format === "pkcs8") action.data = withoutPublicKey(action.data);
    if (action.data.d) delete action.data.x && delete action.data.y;
  }
}
for (const action of vectors.ECDH.actions.deriveKey) action.derivedKeyType.name = "AES-CBC"; // one of them has CTR

const open = () => new Crypto({ library: process.env.MODULE, slot: 0, readWrite: true, pin: process.env.PIN });
let crypto = open();
WebcryptoTest.check(crypto, Object.fromEntries(Object.keys(vectors).map((name) => [name, OTHERS.test(name)])));

const DATA = Buffer.from("what is signed");
const RSA = { modulusLength: 2048, publicExponent: new Uint8Array([1, 0, 1]), hash: "SHA-256" };
const PAIRS = {
  "RSASSA-PKCS1-v1_5": [RSA, {}, { padding: node.constants.RSA_PKCS1_PADDING }],
  "RSA-PSS": [RSA, { saltLength: 32 }, { padding: node.constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 }],
  ECDSA: [{ namedCurve: "P-384" }, { hash: "SHA-256" }, { dsaEncoding: "ieee-p1363" }],
};

// The indexes of what is stored, by kind, for a program that starts now. They tell a handle, which no program knows yet.
async function stored() {
  crypto.close();
  crypto = open();
  return Object.fromEntries((await crypto.keyStorage.keys()).map((index) => [index.split("-")[0], index]));
}

for (const [name, [parameters, more, openssl]] of Object.entries(PAIRS)) {
  for (const extractable of [false, true]) {
    it(`Storage: ${name}, ${extractable ? "" : "not "}extractable`, async () => {
      const pair = await crypto.subtle.generateKey({ name, ...parameters }, extractable, ["sign", "verify"]);
      assert.strictEqual(pair.privateKey.extractable, extractable);
      for (const half of [pair.privateKey, pair.publicKey]) await crypto.keyStorage.setItem(half);
      const indexes = await stored();
      assert.deepStrictEqual(Object.keys(indexes).sort(), ["private", "public"]);
      const key = await crypto.keyStorage.getItem(indexes.private, { name, ...parameters }, false, ["sign"]);
      assert.deepStrictEqual([key.algorithm.token, key.extractable], [true, false]);
      const spki = await crypto.subtle.exportKey("spki", await crypto.keyStorage.getItem(indexes.public));
      const signature = await crypto.subtle.sign({ name, ...more }, key, DATA);
      const there = { key: Buffer.from(spki), format: "der", type: "spki", ...openssl };
      assert(node.verify("sha256", DATA, there, Buffer.from(signature)));
      await crypto.keyStorage.removeItem(indexes.private);
      assert.deepStrictEqual(await crypto.keyStorage.keys(), [indexes.public]);
      await crypto.keyStorage.clear();
      assert.deepStrictEqual(await crypto.keyStorage.keys(), []);
    });
  }
}

it("Storage: AES", async () => {
  const algorithm = { name: "AES-CBC", length: 256 };
  const key = await crypto.subtle.generateKey(algorithm, true, ["encrypt", "decrypt"]);
  const [value, iv] = [await crypto.subtle.exportKey("raw", key), Buffer.alloc(16, 1)];
  await crypto.keyStorage.setItem(key);
  const { secret } = await stored();
  const again = await crypto.keyStorage.getItem(secret);
  assert.deepStrictEqual([again.algorithm.token, again.algorithm.sensitive], [true, false]);
  const sealed = await crypto.subtle.encrypt({ name: "AES-CBC", iv }, again, DATA);
  const cipher = node.createDecipheriv("aes-256-cbc", Buffer.from(value), iv);
  assert.deepStrictEqual(Buffer.concat([cipher.update(Buffer.from(sealed)), cipher.final()]), DATA);
  await crypto.keyStorage.clear();
});

it("Storage: RSA key of elsewhere", async () => {
  const { privateKey } = node.generateKeyPairSync("rsa", { modulusLength: 2048 });
  const pkcs8 = privateKey.export({ format: "der", type: "pkcs8" });
  const algorithm = { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256", token: true, label: "other" };
  const key = await crypto.subtle.importKey("pkcs8", pkcs8, algorithm, false, ["sign"]);
  const signature = await crypto.subtle.sign("RSASSA-PKCS1-v1_5", key, DATA);
  assert.deepStrictEqual(Buffer.from(signature), node.sign("sha256", DATA, privateKey));
  await crypto.keyStorage.clear();
});

it("Storage: certificate and request", async () => {
  const { certificate, request } = JSON.parse(process.env.DOCUMENTS);
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  for (const [type, pem] of Object.entries({ x509: certificate, request })) {
    const document = await crypto.certStorage.importCert("pem", pem, algorithm, ["verify"]);
    assert.strictEqual(await crypto.certStorage.indexOf(document), null);
    const index = await crypto.certStorage.setItem(document);
    assert.strictEqual((await crypto.certStorage.getItem(index, algorithm, ["verify"])).type, type);
    assert.deepStrictEqual(Buffer.from(await crypto.certStorage.getValue(index)), Buffer.from(document.value));
  }
  assert.strictEqual((await crypto.certStorage.keys()).length, 2);
});

(async () => {
  for (const [name, body] of tests) {
    const wrong = await body().then(() => "", (error) => error.message || String(error));
    console.log(JSON.stringify([name, wrong]));
  }
  crypto.close();
})();
