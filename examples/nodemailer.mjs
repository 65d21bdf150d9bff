import nodemailer from "nodemailer";

const relay = nodemailer.createTransport({ host: "127.0.0.1", port: 2525, ignoreTLS: true });
const sent = await relay.sendMail({
  from: "shop@example.com",
  to: "customer@example.com",
  subject: "Your order",
  text: "Your order is on its way.",
  headers: { "X-Idempotency-Key": "order-1001-confirmation" },
});
console.log(sent.response);
