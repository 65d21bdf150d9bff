// application.properties: spring.mail.host=127.0.0.1, spring.mail.port=2525
import jakarta.mail.internet.MimeMessage;
import org.springframework.mail.javamail.JavaMailSender;
import org.springframework.mail.javamail.MimeMessageHelper;

record SpringMail(JavaMailSender relay) {
    void confirmation() throws jakarta.mail.MessagingException {
        MimeMessage mail = relay.createMimeMessage();
        mail.setHeader("X-Idempotency-Key", "order-1001-confirmation");
        MimeMessageHelper helper = new MimeMessageHelper(mail, "UTF-8");
        helper.setFrom("shop@example.com");
        helper.setTo("customer@example.com");
        helper.setSubject("Your order");
        helper.setText("Your order is on its way.");
        relay.send(mail);
    }
}
