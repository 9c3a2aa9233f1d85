BEGIN TRANSACTION;
CREATE TABLE applied_migrations (
	number INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	applied_at DATETIME NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "applied_migrations" VALUES(1,'first tables','2026-01-31 00:00:00.000000');
CREATE TABLE deliveries (
	id INTEGER NOT NULL, 
	result_id INTEGER NOT NULL, 
	destination VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	status INTEGER, 
	words TEXT, 
	accepted_at DATETIME, 
	confirmed_at DATETIME, 
	confirmed_by VARCHAR(16), 
	PRIMARY KEY (id), 
	CONSTRAINT uq_deliveries_result_destination UNIQUE (result_id, destination), 
	FOREIGN KEY(result_id) REFERENCES results (id)
);
CREATE TABLE image_results (
	image_id INTEGER NOT NULL, 
	result_id INTEGER NOT NULL, 
	pane INTEGER NOT NULL, 
	PRIMARY KEY (image_id, result_id), 
	FOREIGN KEY(image_id) REFERENCES images (id), 
	FOREIGN KEY(result_id) REFERENCES results (id)
);
CREATE TABLE images (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	route VARCHAR(64) NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	transfer_syntax_uid VARCHAR(64) NOT NULL, 
	instance_number INTEGER, 
	digest VARCHAR(64) NOT NULL, 
	size_bytes INTEGER NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	called_ae_title VARCHAR(16) NOT NULL, 
	address VARCHAR(45) NOT NULL, 
	received_at DATETIME NOT NULL, 
	arrivals INTEGER DEFAULT '1' NOT NULL, 
	revision INTEGER DEFAULT '1' NOT NULL, 
	decision VARCHAR(16) NOT NULL, 
	skip_code VARCHAR(32), 
	skip_sentence TEXT, 
	decided_at DATETIME, 
	PRIMARY KEY (id), 
	CONSTRAINT uq_images_route_sop UNIQUE (route, sop_instance_uid), 
	FOREIGN KEY(study_id) REFERENCES studies (id)
);
CREATE TABLE job_events (
	id INTEGER NOT NULL, 
	job_id INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	event VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	detail TEXT, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
CREATE TABLE jobs (
	id INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	lane VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	priority INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	image_id INTEGER NOT NULL, 
	delivery_id INTEGER, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	max_attempts INTEGER NOT NULL, 
	not_before DATETIME, 
	lease_token VARCHAR(36), 
	lease_until DATETIME, 
	owner VARCHAR(128), 
	error_code VARCHAR(64), 
	error_text TEXT, 
	created_at DATETIME NOT NULL, 
	claimed_at DATETIME, 
	ended_at DATETIME, 
	PRIMARY KEY (id), 
	FOREIGN KEY(study_id) REFERENCES studies (id), 
	FOREIGN KEY(image_id) REFERENCES images (id), 
	FOREIGN KEY(delivery_id) REFERENCES deliveries (id)
);
CREATE TABLE results (
	id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	bundle VARCHAR(128) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	size_bytes INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	steps TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (sop_instance_uid)
);
CREATE TABLE studies (
	id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	accession_number VARCHAR(16) DEFAULT '' NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	revision INTEGER DEFAULT '1' NOT NULL, 
	first_received_at DATETIME NOT NULL, 
	last_received_at DATETIME NOT NULL, 
	settled_at DATETIME, 
	PRIMARY KEY (id), 
	UNIQUE (study_instance_uid)
);
CREATE INDEX ix_studies_last ON studies (last_received_at);
CREATE INDEX ix_studies_accession ON studies (accession_number);
CREATE INDEX ix_studies_state ON studies (state);
CREATE INDEX ix_results_digest ON results (digest);
CREATE INDEX ix_images_study ON images (study_id);
CREATE INDEX ix_images_digest ON images (digest);
CREATE INDEX ix_deliveries_state ON deliveries (state);
CREATE INDEX ix_jobs_delivery ON jobs (delivery_id);
CREATE INDEX ix_jobs_claim ON jobs (kind, lane, state, priority, id);
CREATE INDEX ix_jobs_image ON jobs (image_id);
CREATE INDEX ix_jobs_study ON jobs (study_id);
CREATE INDEX ix_image_results_result ON image_results (result_id);
CREATE INDEX ix_job_events_job ON job_events (job_id);
COMMIT;
