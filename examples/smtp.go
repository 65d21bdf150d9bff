package main

import (
	"log"
	"net/smtp"
	"strings"
)

func main() {
	mail := strings.Join([]string{
		"From: shop@example.com",
		"To: customer@example.com",
		"Subject: Your order",
		"X-Idempotency-Key: order-1001-confirmation",
		"",
		"Your order is on its way.",
		"",
	}, "\r\n")
	err := smtp.SendMail("127.0.0.1:2525", nil, "shop@example.com", []string{"customer@example.com"}, []byte(mail))
	if err != nil {
		log.Fatal(err)
	}
}
