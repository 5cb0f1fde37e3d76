"""The Kafka side: translate, call the library, send, count. Nothing else imports Faust or a Kafka client."""
