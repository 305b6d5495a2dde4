import java.io.IOException;
import java.net.InetAddress;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import javax.net.ssl.SSLServerSocketFactory;

/** TLS as Java's usual properties have it: {@code serve PORT} answers everybody, {@code ask URL...} prints pages. */
class Tls {
    public static void main(String[] words) throws IOException {
        String[] rest = Arrays.copyOfRange(words, 1, words.length);
        if (words[0].equals("serve")) {
            serve(Integer.parseInt(rest[0]));
        } else {
            for (String address : rest) {
                try (var page = new URL(address).openStream()) {
                    System.out.write(page.readAllBytes());
                }
            }
        }
    }

    static void serve(int port) throws IOException {
        var home = InetAddress.getByName("127.0.0.1");
        var server = SSLServerSocketFactory.getDefault().createServerSocket(port, 9, home);
        while (true) {
            try (var client = server.accept()) {
                client.getInputStream().read();
                client.getOutputStream().write("answer\n".getBytes(StandardCharsets.UTF_8));
            } catch (IOException error) {
                System.err.println(error);
            }
        }
    }
}
