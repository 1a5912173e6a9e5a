CREATE DATABASE IF NOT EXISTS scratch;
CREATE USER IF NOT EXISTS 'scratch'@'%' IDENTIFIED BY 'scratch';
GRANT ALL ON `scratch%`.* TO 'scratch'@'%';
