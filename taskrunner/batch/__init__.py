"""What AWS Batch, ECS and EC2 tell a job about itself."""
