import java.io.File;
import java.security.*;
import java.security.cert.Certificate;
import java.security.interfaces.*;
import java.security.spec.*;
import java.util.*;
import javax.crypto.*;
import javax.crypto.interfaces.DHKey;
import javax.crypto.spec.*;

/**
 * What programs do with keys through SunPKCS11: {@code CONFIGURATION PKCS12...}. Prints a line for each test, its name
 * and what was wrong. A provider of Java's own has the last word in all of them.
 */
class Compatibility {
    interface Body { void run() throws Exception; }

    static final byte[] DATA = "what is signed".getBytes();
    static final char[] PIN = System.getenv("PIN").toCharArray();
    static final PSSParameterSpec PSS = new PSSParameterSpec("SHA-256", "MGF1", MGF1ParameterSpec.SHA256, 32, 1);
    static final List<String> DIGESTS = List.of("SHA1", "SHA224", "SHA256", "SHA384", "SHA512");
    static final Map<String, String> OWN = Map.of("RSA", "SunRsaSign", "EC", "SunEC", "DSA", "SUN", "DH", "SunJCE");
    static final SortedMap<String, String> SIGNATURES = new TreeMap<>(
        Map.of("RSA", "SHA256withRSA", "EC", "SHA256withECDSA"));
    static AuthProvider token;

    public static void main(String[] words) throws Exception {
        token = (AuthProvider) Security.getProvider("SunPKCS11").configure(words[0]);
        Security.addProvider(token);
        KeyStore store = KeyStore.getInstance("PKCS11", token);
        store.load(null, PIN);
        made();
        secret();
        imported();
        for (String file : Arrays.asList(words).subList(1, words.length))
            kept(store, KeyStore.getInstance(new File(file), PIN));
    }

    static void test(String name, Body body) {
        try {
            body.run();
            System.out.println(name + "\t");
        } catch (Throwable wrong) {
            System.out.println(name + "\t" + wrong + (wrong.getCause() == null ? "" : ", " + wrong.getCause()));
        }
    }

    static void same(Object one, Object other) {
        if (!Objects.deepEquals(one, other))
            throw new AssertionError(one + " is not " + other);
    }

    static KeyPair pair(String algorithm, int bits, Provider provider) throws Exception {
        var generator = KeyPairGenerator.getInstance(algorithm, provider);
        generator.initialize(bits);
        return generator.generateKeyPair();
    }

    static Provider own(Key key) {
        return Security.getProvider(OWN.get(key.getAlgorithm()));
    }

    static void sign(String algorithm, PrivateKey key, PublicKey with) throws Exception {
        sign(Signature.getInstance(algorithm, token), key, with);
    }

    static void sign(Signature signer, PrivateKey key, PublicKey with) throws Exception {
        byte[] data = signer.getAlgorithm().equals("NONEwithECDSA") ? new byte[32] : DATA;
        var checker = Signature.getInstance(signer.getAlgorithm(), own(with));
        if (signer.getAlgorithm().equals("RSASSA-PSS")) {
            signer.setParameter(PSS);
            checker.setParameter(PSS);
        }
        signer.initSign(key);
        signer.update(data);
        checker.initVerify(with);
        checker.update(data);
        same(checker.verify(signer.sign()), true);
    }

    static byte[] agree(Provider provider, PrivateKey key, PublicKey with) throws Exception {
        var agreement = KeyAgreement.getInstance(key.getAlgorithm().replace("EC", "ECDH"), provider);
        agreement.init(key);
        agreement.doPhase(with, true);
        return agreement.generateSecret();
    }

    /** The key that a provider of Java's own makes of what `key` shows of itself. */
    static PrivateKey shown(PrivateKey key) throws Exception {
        var value = new PKCS8EncodedKeySpec(key.getEncoded());
        return KeyFactory.getInstance(key.getAlgorithm(), own(key)).generatePrivate(value);
    }

    static void made() {
        for (int bits : new int[] {1024, 2048})
            test("RSA " + bits, () -> {
                KeyPair made = pair("RSA", bits, token);
                for (String digest : DIGESTS)
                    sign(digest + "withRSA", made.getPrivate(), made.getPublic());
                sign("RSASSA-PSS", made.getPrivate(), made.getPublic());
                same(((RSAKey) shown(made.getPrivate())).getModulus(), ((RSAKey) made.getPublic()).getModulus());
                var cipher = Cipher.getInstance("RSA/ECB/PKCS1Padding", token);
                var other = Cipher.getInstance("RSA/ECB/PKCS1Padding", "SunJCE");
                other.init(Cipher.ENCRYPT_MODE, made.getPublic());
                cipher.init(Cipher.DECRYPT_MODE, made.getPrivate());
                same(cipher.doFinal(other.doFinal(DATA)), DATA);
            });
        for (int bits : new int[] {256, 384, 521})
            test("EC " + bits, () -> {
                KeyPair made = pair("EC", bits, token);
                PublicKey other = pair("EC", bits, Security.getProvider("SunEC")).getPublic();
                sign("NONEwithECDSA", made.getPrivate(), made.getPublic());
                for (String digest : DIGESTS)
                    sign(digest + "withECDSA", made.getPrivate(), made.getPublic());
                byte[] secret = agree(own(other), shown(made.getPrivate()), other);
                same(agree(token, made.getPrivate(), other), secret);
            });
        test("DSA", () -> {
            KeyPair made = pair("DSA", 2048, token);
            sign("SHA1withDSA", made.getPrivate(), made.getPublic());
        });
        test("DH", () -> {
            KeyPair made = pair("DH", 2048, token);
            var generator = KeyPairGenerator.getInstance("DH", "SunJCE");
            generator.initialize(((DHKey) made.getPublic()).getParams());
            KeyPair other = generator.generateKeyPair();
            byte[] secret = agree(own(other.getPrivate()), other.getPrivate(), made.getPublic());
            same(agree(token, made.getPrivate(), other.getPublic()), secret);
        });
    }

    static void secret() {
        for (int bits : new int[] {128, 192, 256})
            test("AES " + bits, () -> {
                var generator = KeyGenerator.getInstance("AES", token);
                generator.init(bits);
                SecretKey made = generator.generateKey();
                for (String form : List.of("ECB/NoPadding", "CBC/PKCS5Padding", "CTR/NoPadding", "GCM/NoPadding")) {
                    var cipher = Cipher.getInstance("AES/" + form, token);
                    var other = Cipher.getInstance("AES/" + form, "SunJCE");
                    cipher.init(Cipher.ENCRYPT_MODE, made);
                    byte[] sealed = cipher.doFinal(new byte[32]);
                    var shown = new SecretKeySpec(made.getEncoded(), "AES");
                    other.init(Cipher.DECRYPT_MODE, shown, cipher.getParameters());
                    same(other.doFinal(sealed), new byte[32]);
                }
            });
        test("wrapped", () -> {
            KeyPair pair = pair("RSA", 2048, token);
            SecretKey made = KeyGenerator.getInstance("AES", token).generateKey();
            for (SecretKey key : List.of(made, new SecretKeySpec(new byte[24], "AES"))) {
                var cipher = Cipher.getInstance("RSA/ECB/PKCS1Padding", token);
                cipher.init(Cipher.WRAP_MODE, pair.getPublic());
                byte[] wrapped = cipher.wrap(key);
                cipher.init(Cipher.UNWRAP_MODE, pair.getPrivate());
                same(cipher.unwrap(wrapped, "AES", Cipher.SECRET_KEY).getEncoded(), key.getEncoded());
            }
        });
        test("HMAC", () -> {
            SecretKey made = KeyGenerator.getInstance("HmacSHA512", token).generateKey();
            for (String digest : DIGESTS) {
                var mac = Mac.getInstance("Hmac" + digest, token);
                var other = Mac.getInstance("Hmac" + digest, "SunJCE");
                mac.init(made);
                other.init(new SecretKeySpec(made.getEncoded(), "HMAC"));
                same(mac.doFinal(DATA), other.doFinal(DATA));
            }
        });
    }

    static void imported() {
        for (String algorithm : SIGNATURES.keySet())
            test(algorithm + " of elsewhere", () -> {
                int bits = algorithm.equals("RSA") ? 2048 : 256;
                KeyPair pair = pair(algorithm, bits, Security.getProvider(OWN.get(algorithm)));
                sign(SIGNATURES.get(algorithm), pair.getPrivate(), pair.getPublic());
                var inside = (PrivateKey) KeyFactory.getInstance(algorithm, token).translateKey(pair.getPrivate());
                same(shown(inside), pair.getPrivate());
            });
        test("AES of elsewhere", () -> {
            var key = new SecretKeySpec(new byte[16], "AES");
            SecretKey inside = SecretKeyFactory.getInstance("AES", token).translateKey(key);
            same(inside.getEncoded(), new byte[16]);
        });
    }

    /** Give what the key shows of itself, null for nothing: Java believes the attributes of a key that it may be read. */
    static byte[] encoded(PrivateKey key) {
        try {
            return key.getEncoded();
        } catch (RuntimeException unreadable) {
            return null;
        }
    }

    /** Keys that stay: whatever the configuration wishes, the private ones do not come out any more. */
    static void kept(KeyStore store, KeyStore source) throws Exception {
        String name = source.aliases().nextElement();
        var other = (PrivateKey) source.getKey(name, PIN);
        String algorithm = other.getAlgorithm();
        test(algorithm + " kept", () -> {
            var secret = new SecretKeySpec(new byte[16], "AES");
            store.setKeyEntry(name, other, null, source.getCertificateChain(name));
            store.setKeyEntry("secret", secret, null, null);
            token.logout();
            store.load(null, PIN);
            same(Set.copyOf(Collections.list(store.aliases())), Set.of(name, "secret"));
            var cipher = Cipher.getInstance("AES/ECB/NoPadding", token);
            var own = Cipher.getInstance("AES/ECB/NoPadding", "SunJCE");
            cipher.init(Cipher.ENCRYPT_MODE, store.getKey("secret", null));
            own.init(Cipher.ENCRYPT_MODE, secret);
            same(cipher.doFinal(new byte[16]), own.doFinal(new byte[16]));
            try {
                use(SIGNATURES.get(algorithm), (PrivateKey) store.getKey(name, null), source.getCertificate(name));
            } finally {
                store.deleteEntry(name);
                store.deleteEntry("secret");
            }
            same(store.size(), 0);
        });
    }

    /** A program that names no provider gets to the token as well. */
    static void use(String signature, PrivateKey key, Certificate certificate) throws Exception {
        sign(signature, key, certificate.getPublicKey());
        sign(Signature.getInstance(signature), key, certificate.getPublicKey());
        same(encoded(key), null);
    }
}
